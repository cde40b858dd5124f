"""The rooms: imports go one way, and each room says in a line what it is for."""

import ast
import functools
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for wing in ("pipeline", "train", "models")
    for path in (ROOT / wing).rglob("*.py")
    if path.name != "__init__.py"
}
NOT_FOR = {"pipeline": {"train", "models", "torch"}, "models": {"pipeline", "train"}}


def imports(path: Path) -> set[str]:
    """The names that a module imports anywhere in it; of `from a import b` both `a` and `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str:
    """The folder of a module; what lies beside the folders is a room of its own, and so is all of models/."""
    wing, *rest = module.split(".")
    return wing if wing == "models" else f"{wing}.{rest[0]}"


@functools.cache
def rooms() -> dict[str, set[str]]:
    """Each room and those that it imports."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        others = {room(name) for name in imports(path) & MODULES.keys()}
        graph.setdefault(room(module), set()).update(others - {room(module)})
    return graph


def below(graph: dict[str, set[str]], name: str) -> set[str]:
    """The rooms that a room imports, directly or not."""
    return graph[name].union(*(below(graph, other) for other in graph[name]))


def picture() -> str:
    """The rooms as a Mermaid diagram, without command lines, and without arrows that a longer way makes too."""
    graph = {name: others for name, others in rooms().items() if not name.endswith("__main__")}
    lines = ["flowchart TD"]
    for wing in ("train", "pipeline"):
        own = sorted(name.split(".")[1] for name in graph if name.startswith(f"{wing}."))
        lines += [f"  subgraph {wing}", *(f"    {name}" for name in own), "  end"]
    for name, others in sorted(graph.items()):
        longer = set().union(*(below(graph, other) for other in others))
        lines += [f"  {name.split('.')[-1]} --> {other.split('.')[-1]}" for other in sorted(others - longer)]
    return "\n".join(lines)


def test_no_imports_go_in_a_circle_of_rooms():
    TopologicalSorter(rooms()).prepare()  # its CycleError names the circle


def test_the_picture_of_the_rooms_is_up_to_date_and_files_named_beside_it_exist():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:pipeline|train|models|tests|configs)/[\w/.]*)`", page)
    assert len(named) > 20 and not [name for name in named if not (ROOT / name).exists()]
    drawn = page.split("```mermaid\n")[1].split("\n```")[0]
    assert drawn == picture(), f"put this in docs/architecture.md:\n{picture()}"


@pytest.mark.parametrize("wing", NOT_FOR)
def test_a_wing_does_not_import_what_is_not_for_it(wing):
    for module, path in MODULES.items():
        if module.startswith(f"{wing}."):
            assert not {name.split(".")[0] for name in imports(path)} & NOT_FOR[wing], module


def test_a_room_says_in_one_line_what_it_is_for_and_nothing_else():
    for folder in {path.parent for path in MODULES.values()}:
        (only,) = ast.parse((folder / "__init__.py").read_bytes()).body
        assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant), folder
        assert isinstance(only.value.value, str) and "\n" not in only.value.value, folder
