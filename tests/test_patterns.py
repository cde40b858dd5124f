"""Patterns of `re` find the same in every Python that the project allows (docs/findings/libraries.md)."""

import ast
import re
from collections.abc import Iterator
from re import _constants, _parser  # private; the same from 3.11 to 3.14
from typing import Any

import pytest
from conftest import ROOT

# One character, of which nothing is found in part, or a group that goes back itself.
SOUND = {
    _constants.ANY, _constants.IN, _constants.LITERAL, _constants.NOT_LITERAL, _constants.ATOMIC_GROUP,
}  # fmt: skip


def possessive(parsed: Any) -> Iterator[bool]:
    """Of each possessive repetition in a parsed pattern, at any depth, whether Python 3.11.2 has it right."""
    if isinstance(parsed, (tuple, list)):
        if parsed and parsed[0] is _constants.POSSESSIVE_REPEAT:
            repeated = parsed[1][2]
            yield len(repeated) == 1 and repeated[0][0] in SOUND
        for part in parsed:
            yield from possessive(part)
    elif isinstance(parsed, _parser.SubPattern):
        yield from possessive(parsed.data)


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a source; a value that is put into one counts as a letter."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    else:
        for part in ast.iter_child_nodes(node):
            yield from texts(part)


@pytest.mark.parametrize(
    "pattern", ["(?:ab)*+", "(a)?+", "x(?=(?:a|bc){0,4}+)", "(?>(?:ab)++)*+", "(?:a|(?!b).)++"]
)
def test_a_possessive_repetition_of_a_group_is_found(pattern):
    assert not all(possessive(_parser.parse(pattern)))


def test_what_is_repeated_possessively_is_a_character_or_an_atomic_group():
    sound = {
        f"{path.relative_to(ROOT)}: {text}": all(possessive(_parser.parse(text)))
        for wing in ("pipeline", "train", "models", "benchmarks")
        for path in (ROOT / wing).rglob("*.py")
        if "import re\n" in (source := path.read_text())
        for text in texts(ast.parse(source))
        if re.search(r"[*+?}]\+", text)
    }
    assert len(sound) > 40
    assert not [place for place, is_sound in sound.items() if not is_sound], "write (?>…)*+ for (?:…)*+"
