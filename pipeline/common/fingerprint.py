"""A stage's code as one short hash, so that editing it reruns the stage and nothing else.

Snakemake does not see what happens inside `shell:` commands; each rule passes this hash as a param. It
covers the stage's module, every module of this project that it imports, directly or not, and the files beside
them that they name, such as templates. Comments, docstrings and formatting do not count: a cosmetic edit reruns
nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "train", "models")


@functools.cache
def fingerprint(*modules: str) -> str:
    """12 hex digits for the code of `modules` (dotted names) and all they import from this project."""
    pending, seen = list(modules), {}
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen[name], imports = _read(name)
        pending += imports
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:12]


def _path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


@functools.cache
def _read(module: str) -> tuple[str, list[str]]:
    """A hash of a module's code and the files it names, and the modules of this project that it imports anywhere.

    Kept, since the rules' stages share most modules: read for each it was a fifth of Snakemake's start.
    """
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} below {ROOT}")
    tree, imports, files = ast.parse(path.read_bytes()), [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        elif isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w-]{1,60}(\.\w{1,9}){1,2}", str(node.value)):
            file = path.with_name(str(node.value))
            files += [file.read_bytes()] if file.is_file() else []
    own = [name for name in dict.fromkeys(imports) if name.split(".")[0] in PACKAGES and _path(name)]
    return hashlib.sha256(repr((ast.dump(tree), files)).encode()).hexdigest(), own
