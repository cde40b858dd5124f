"""A stage's code as one short hash, so that editing it reruns the stage and nothing else.

Snakemake does not see what happens inside `shell:` commands; each rule passes this hash as a param. It
covers the stage's module and every module of this project that it imports, directly or not. Comments,
docstrings and formatting do not count: a cosmetic edit reruns nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "train", "models")


@functools.cache
def fingerprint(*modules: str) -> str:
    """12 hex digits for the code of `modules` (dotted names) and all they import from this project."""
    pending, seen = list(modules), {}
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen[name], imports = _module(name)
        pending += imports
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:12]


def _path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


@functools.cache
def _module(name: str) -> tuple[str, list[str]]:
    """The hash of a module's code, and the modules that it imports."""
    tree = _parse(name)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), _imports(tree)


def _parse(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} below {ROOT}")
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def _imports(tree: ast.Module) -> list[str]:
    """This project's modules imported anywhere in `tree`, inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".")[0] in PACKAGES and _path(name)]
