"""Markdown with names and values from data, configs and other people's files in it: they stay text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pipeline.common.shown import STEERING

# Here line breaks too.
CONTROLS = re.compile(rf"(?:[\t\n]|{STEERING.pattern})+")
# What begins code, HTML, an entity, emphasis or the next cell; and a link, with what is behind its text.
MARKS = re.compile(r"[\\`<>|*]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|(?<=\])[(\[]")


def escaped(value: object) -> str:
    """A value as text in a line or a cell of Markdown.

    >>> print(escaped("a|b\\n<img src=x> [c](d) x_1"))
    a\\|b \\<img src=x\\> [c]\\(d) x_1
    """
    return MARKS.sub(r"\\\g<0>", one_line(value))


def code(value: object) -> str:
    """A value as code in a line of Markdown.

    >>> code("mit"), code("a`b")
    ('`mit`', '``a`b``')
    """
    text = one_line(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def table_row(cells: Iterable[object]) -> str:
    """A row of a table.

    >>> table_row(["en", 3])
    '| en | 3 |'
    """
    return f"| {' | '.join(map(escaped, cells))} |"


def one_line(value: object) -> str:
    return CONTROLS.sub(" ", str(value)).strip()


def front_matter(data: dict[str, Any]) -> str:
    """The YAML header of a card, as the hub reads it: in it `no` is the language, and not false.

    >>> print(front_matter({"language": ["en", "no"], "license": "1e3"}), end="")
    ---
    language: [en, 'no']
    license: "1e3"
    ---
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Lists of text in one line; in quotes all that YAML 1.1 or 1.2 may take for something else than text."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Dumper, value: str) -> yaml.ScalarNode:
        plain = re.fullmatch(r"[A-Za-z][\w./*-]+", value)
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')

    def items(dumper: Dumper, value: list[Any]) -> yaml.SequenceNode:
        in_line = all(isinstance(item, str) for item in value)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=in_line)

    Dumper.add_representer(str, text)
    Dumper.add_representer(list, items)
    dumped = yaml.dump(
        data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=float("inf")
    )
    return f"---\n{dumped}---\n"
