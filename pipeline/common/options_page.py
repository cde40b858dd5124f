"""A page of Markdown with every option of a config, for whoever reads; `json_schema` is for editors."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.common.config import default_of, to_data, type_name


def options_page(config: type) -> str:
    """A table for each section of the dataclass `config`: a row for each option."""
    sections = _sections(config, "", {})
    return "\n".join(line for cls in sections for line in _section(cls, sections))


def _sections(cls: type, key: str, keys: dict[type, str]) -> dict[type, str]:
    """The dataclasses in `cls`, itself first, each with the first key that it lies at."""
    keys[cls] = key
    for name, kind in typing.get_type_hints(cls).items():
        part, suffix = _part(kind)
        if part is not None and part not in keys:
            _sections(part, f"{key}.{name}{suffix}".removeprefix("."), keys)
    return keys


def _part(kind: Any) -> tuple[type | None, str]:
    """The dataclass that a value of `kind` is or holds, if any, and what follows the key of one that it holds."""
    suffix = {dict: ".NAME", list: "[]"}.get(typing.get_origin(kind), "")
    for member in (kind, *typing.get_args(kind)):
        if dataclasses.is_dataclass(member):
            return typing.cast(type, member), suffix
    return None, ""


def _section(cls: type, sections: dict[type, str]) -> Iterator[str]:
    key, hints = sections[cls], typing.get_type_hints(cls)
    yield from (f"## {key or 'The sections'}", "", str(cls.__doc__).split("\n", 1)[0], "")
    yield from ("| key | type | unit | default | allowed | meaning |", "|---|---|---|---|---|---|")
    for field in dataclasses.fields(cls):
        part, _ = _part(hints[field.name])
        kind = type_name(hints[field.name])
        kind = f"[{kind}](#{_anchor(sections[part])})" if part else kind
        rule = field.metadata
        cells = (f"`{field.name}`", kind, rule["unit"], _default(field), _allowed(rule), _escaped(rule["doc"]))
        yield f"| {' | '.join(cells)} |"
    yield ""


def _anchor(heading: str) -> str:
    """As GitHub makes it from a heading."""
    return re.sub(r"[^\w-]", "", heading.lower())


def _default(field: dataclasses.Field[Any]) -> str:
    """As JSON, which is YAML too; a section has its defaults in a table of its own."""
    value = default_of(field)
    if value is dataclasses.MISSING:
        return "**required**"
    return "" if dataclasses.is_dataclass(value) else f"`{json.dumps(to_data(value), ensure_ascii=False)}`"


def _allowed(rule: Mapping[str, Any]) -> str:
    existing = "a path that exists" if rule["exists"] else ""
    choices = (f"`{choice}`" for choice in rule["choices"])
    return ", ".join(filter(None, (_bounds(rule), *choices, existing)))


def _bounds(rule: Mapping[str, Any]) -> str:
    if rule["low"] is not None and rule["high"] is not None:
        return f"{rule['low']:,} to {rule['high']:,}"
    words = {"low": "at least", "above": "more than", "high": "at most", "below": "less than"}
    return ", ".join(f"{word} {rule[bound]:,}" for bound, word in words.items() if rule[bound] is not None)


def _escaped(text: str) -> str:
    """A line of doc, in which no character makes a column or emphasis; it may have `code`."""
    return re.sub(r"([|*<])", r"\\\1", text)
