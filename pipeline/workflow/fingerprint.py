"""The code that a stage runs as one short hash, so that an edit reruns what it can change, and nothing else.

Snakemake does not see what happens inside `shell:` commands; each rule passes this hash as a param. It covers the
stage's function and every function, class and constant of this project that can be reached from it, followed by
name from module to module, and the files beside a module that the reached code names, such as templates. What
changes no result does not count: comments, docstrings, formatting, annotations, and of an option all but its
default: how it is described and checked.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "train", "models")
# A module, and a name at its top level; no name: all of the module.
Reference: TypeAlias = tuple[str, str | None]

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
OWN_MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?::\w+)?")
FILE_NAME = re.compile(r"[\w-]{1,60}(\.\w{1,9}){1,2}")
# Of option(), in pipeline/common/config.py: what describes and checks a value, but is not the value.
OPTION_CALLS, OPTION_WORDS = ("option", "Option"), ("doc", "unit", "low", "high", "choices", "path", "exists")


@dataclass
class Module:
    """A module's top level. `names`: the statements that define each name. `always`: those that run on import and
    define none. `imports`: what the imported names stand for.
    """

    path: Path
    names: dict[str, list[ast.stmt]] = field(default_factory=dict)
    always: list[ast.stmt] = field(default_factory=list)
    imports: dict[str, Reference] = field(default_factory=dict)


@functools.cache
def fingerprint(*stages: str) -> str:
    """12 hex digits for the code of `stages`, each as 'module:function', or 'module' for all of it."""
    pending: list[Reference] = []
    for stage in stages:
        module, _, name = stage.partition(":")
        pending.append((module, name or None))
    seen: dict[Reference, str] = {}
    while pending:
        reference = pending.pop()
        if reference not in seen:
            seen[reference], used = _read(*reference)
            pending += used
    code = sorted((module, name or "", digest) for (module, name), digest in seen.items() if digest)
    return hashlib.sha256(repr(code).encode()).hexdigest()[:12]


@functools.cache
def _read(module: str, name: str | None) -> tuple[str, list[Reference]]:
    """A hash of the code of one name (None: all of the module), and the names of this project that it uses.

    Kept, since the stages share most of them. Raises ModuleNotFoundError, or NameError, where there is none.
    """
    top = _parse(module)
    if name is None:
        used: list[Reference] = [(module, other) for other in ("", *top.names)]
        return "", [*used, *top.imports.values()]
    if name in top.imports and name not in top.names:
        return "", [top.imports[name], (module, "")]
    if name and name not in top.names:
        raise NameError(f"{module} has no {name}; name a stage as 'module:function'")
    statements = top.names[name] if name else top.always  # "": what runs whenever the module is imported
    used = [(module, "")] if name else []
    parts = []
    for statement in statements:
        code, references = _statement(statement, module)
        parts.append(code)
        used += references
    return hashlib.sha256(repr(parts).encode()).hexdigest(), used


@functools.cache
def _statement(statement: ast.stmt, module: str) -> tuple[str, list[Reference]]:
    """The code of a top-level statement that results depend on, with the files that it names, and what it uses.

    Once for each, since it takes the rest out of the statement itself.
    """
    for node in ast.walk(statement):
        if isinstance(node, ast.ClassDef):  # a check says only which values are wrong
            node.body = [child for child in node.body if getattr(child, "name", "") != "problems"] or [ast.Pass()]
    top, nodes = _parse(module), list(ast.walk(statement))
    references = _references(nodes, module, top)
    files = [file.read_bytes().hex() for file in _files(nodes, top.path)]
    for node in nodes:
        _take_words_out(node)
    return repr([ast.dump(statement), files]), references


@functools.cache
def _parse(module: str) -> Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} below {ROOT}")
    top = Module(path)
    for statement in _flat(ast.parse(path.read_bytes()).body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            top.imports |= _imported(statement)
            continue
        defined = list(_defined(statement))
        for name in defined:
            top.names.setdefault(name, []).append(statement)
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        # A decorator of this project may register what it decorates, which nobody then calls by its name.
        if not is_docstring and (not defined or _has_own_decorator(statement, top)):
            top.always.append(statement)
    return top


def _path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def _flat(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those inside `if TYPE_CHECKING:` and the like."""
    for statement in statements:
        if isinstance(statement, ast.If | ast.Try):
            yield from _flat([child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)])
        else:
            yield statement


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, FUNCTIONS | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _has_own_decorator(statement: ast.stmt, top: Module) -> bool:
    names = {node.id for each in getattr(statement, "decorator_list", ()) for node in ast.walk(each)
             if isinstance(node, ast.Name)}  # fmt: skip
    return any(name in top.names or name in top.imports for name in names)


def _imported(statement: ast.Import | ast.ImportFrom) -> dict[str, Reference]:
    """The names that an import binds, as far as they are of this project."""
    bound: dict[str, Reference] = {}
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            if _is_own(alias.name):
                bound[alias.asname or alias.name] = (alias.name, None)
        elif statement.module and not statement.level:
            inside = f"{statement.module}.{alias.name}"
            if _is_own(inside):
                bound[alias.asname or alias.name] = (inside, None)
            elif _is_own(statement.module):
                bound[alias.asname or alias.name] = (statement.module, alias.name)
    return bound


def _is_own(module: str) -> bool:
    return module.split(".")[0] in PACKAGES and _path(module) is not None


def _references(nodes: list[ast.AST], module: str, top: Module) -> list[Reference]:
    """What a statement uses: names of its own module, imported ones, and modules that are named in text."""
    bound = dict(top.imports)
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= _imported(node)
    used: dict[Reference, None] = {}
    of_modules = set()  # names that stand for modules, where only an attribute of them is used
    for node in nodes:
        if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)) in bound:
            package, name = bound[owner]
            if name is None and _has(package, node.attr):
                used[package, node.attr] = None
                of_modules.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and OWN_MODULE.fullmatch(node.value):
            named, _, function = node.value.partition(":")
            if _is_own(named):
                used[named, function or None] = None
    for node in nodes:
        if isinstance(node, ast.Name) and id(node) not in of_modules:
            if node.id in bound:
                used[bound[node.id]] = None
            elif node.id in top.names:
                used[module, node.id] = None
    return list(used)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _has(module: str, name: str) -> bool:
    top = _parse(module)
    return name in top.names or name in top.imports


def _files(nodes: list[ast.AST], path: Path) -> list[Path]:
    """The files beside the module that a statement names."""
    names = [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    files = [path.with_name(name) for name in names if FILE_NAME.fullmatch(name)]
    return [file for file in files if file.is_file()]


def _take_words_out(node: ast.AST) -> None:
    """Of a definition or a call, what no result depends on."""
    if isinstance(node, FUNCTIONS | ast.ClassDef) and ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    if isinstance(node, FUNCTIONS):
        node.returns = None
    elif isinstance(node, ast.arg):
        node.annotation = None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OPTION_CALLS:
        node.args = node.args[:1]
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in OPTION_WORDS]
