"""Options defined once, as dataclass fields; reading, checking and passing them on follows from that.

An option is a field made by `option()`: its type, default, bounds, unit and one line of doc. From the
dataclasses come the check of a YAML config (all errors at once, each with its full key and the cure), the
command-line flags of every stage, and `configs/schema.json` for editors.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Container, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.shown import without_secrets

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot run. The message lists every error with its key and the cure; no secrets."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


MOST_ERRORS = 50  # that are shown of one file
REQUIRED: Any = dataclasses.MISSING  # for a type checker a value of every type
MOST_SEED = 2**32 - 1  # torch, NumPy and datasketch take larger ones, but not all that others use
MOST_THREADS = 1024  # or processes, of one machine
MOST_SECONDS = 10**6  # of a limit, which the system takes; eleven days
MOST_GB = 10**6


def option(
    default: T = REQUIRED,
    doc: str = "",
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    path: bool = False,
    exists: bool = False,
) -> T:
    """A dataclass field that is an option; without a default it must be given.

    It has the default's type, so that mypy finds a default that is not of the field's type.
    `low` and `high` are inclusive bounds, `above` and `below` exclusive ones. A float must be finite. `path`: the
    value, if any, is a path; `exists`: one that must exist.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"doc": doc, "unit": unit, **bounds, "choices": choices, "path": path or exists, "exists": exists}
    if default is REQUIRED:
        return typing.cast(T, dataclasses.field(metadata=metadata))
    return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)


def read(cls: type[T], data: Any, source: str = "config", section: str = "") -> T:
    """Check `data`, all of a file or the section of this key, against the dataclass `cls` and build it.

    Raises ConfigError that lists all errors, one a line, as `source: key: problem; cure`.
    """
    errors: list[str] = []
    value: Any = None
    try:
        value = _build(cls, data, section, errors)
    except OSError as error:  # of a path at which the system will not even look
        errors.append(f"{error.strerror}: {str(error.filename)[:LONGEST_NAME]}; give a path that can be read")
    if errors:
        more = [f"and {len(errors) - MOST_ERRORS} more"] if len(errors) > MOST_ERRORS else []
        raise ConfigError("\n".join(f"{source}: {error}" for error in errors[:MOST_ERRORS] + more))
    return typing.cast(T, value)


def read_yaml(cls: type[T], path: str | Path) -> T:
    """`read` for a YAML file. Raises ConfigError also where `load_yaml` does."""
    from pipeline.common.yaml_file import load_yaml

    return read(cls, load_yaml(path), str(path))


# A value that could not be built. One that is only out of bounds, or has an unknown key beside it, can be,
# so that what depends on it is checked too and all errors are listed at once.
_BROKEN = object()


def _build(kind: Any, data: Any, path: str, errors: list[str]) -> Any:
    """`data` as a value of type `kind`, or _BROKEN; problems go to `errors` under the key `path`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), data, path, errors)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        members = [a for a in arguments if a is not type(None)]
        if len(members) == 1:
            return _build(members[0], data, path, errors)
        for member in members:
            if (value := _build(member, data, path, [])) is not _BROKEN:
                return value
    if origin is list and isinstance(data, list | tuple):
        items = [_build(arguments[0], item, f"{path}[{i}]", errors) for i, item in enumerate(data)]
        return _BROKEN if _BROKEN in items else items
    if origin is dict and isinstance(data, Mapping):
        for name in data:  # to YAML 1.1 `no` and `off` are one key, and 1.10 is 1.1
            if isinstance(name, bool) or not isinstance(name, str | int):
                errors.append(f"{path}.{name}: a name that YAML takes for something else; put it in quotes")
        pairs = {str(k): _build(arguments[1], v, f"{path}.{k}", errors) for k, v in data.items()}
        return _BROKEN if _BROKEN in pairs.values() else pairs
    if kind is float and isinstance(data, int | str) and not isinstance(data, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML 1.1 reads 1e-3 as a string
            data = float(data)
    if origin is None and isinstance(data, kind) and not (kind in (int, float) and isinstance(data, bool)):
        return data
    errors.append(f"{path}: expected {wanted(kind)}, found {_shown(data)}{_cure(kind, data)}")
    return _BROKEN


def _cure(kind: Any, data: Any) -> str:
    """How to write what was meant, where that can be seen."""
    kind = _plain(kind)
    if kind is int and isinstance(data, str) and data.isdecimal():
        return f"; write {data} without quotes"
    if kind is bool and str(data).lower() in ("true", "false"):
        return f"; write {str(data).lower()} without quotes"
    if kind is str and isinstance(data, int | float):
        return "; put it in quotes"
    if typing.get_origin(kind) is list and _build(typing.get_args(kind)[0], data, "", []) is not _BROKEN:
        return f"; write [{_shown(data)}]"
    return ""


def _build_dataclass(cls: type, data: Any, path: str, errors: list[str]) -> Any:
    prefix = f"{path}." if path else ""
    if not isinstance(data, Mapping):
        errors.append(f"{path or 'the file'}: expected keys and values, found {_shown(data)}")
        return _BROKEN
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1) if len(errors) < MOST_ERRORS else []
            cure = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(fields)}"
            errors.append(f"{prefix}{key}: unknown key; {cure}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _build(hints[name], data[name], prefix + name, errors)
            if values[name] is not _BROKEN:
                errors.extend(bad_values(values[name], field.metadata, prefix + name))
        elif default_of(field) is dataclasses.MISSING:
            errors.append(f"{prefix}{name}: missing; give {wanted(hints[name])}: {field.metadata['doc']}")
            values[name] = _BROKEN
    if _BROKEN in values.values():
        return _BROKEN
    value = cls(**values)
    for key, problem in getattr(value, "problems", lambda: ())():
        errors.append(f"{prefix}{key}: {problem}")
    return value


def bad_values(value: Any, rule: Mapping[str, Any], path: str) -> Iterator[str]:
    """What is wrong with a value of its type, or with those in a list or mapping, by the metadata of an option."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from bad_values(item, rule, f"{path}.{name}")
        return
    for item in value if isinstance(value, list) else [value]:
        if item is None:
            continue
        if isinstance(item, int | float) and (problem := bad_number(item, rule)):
            yield f"{path}: {problem}"
        if rule.get("choices") and item not in rule["choices"]:
            yield f"{path}: {_shown(item)} is not a choice; choose one of {', '.join(rule['choices'])}"
        if rule.get("path") and (problem := bad_path(item)):
            yield f"{path}: {problem}"
        elif rule.get("exists") and not Path(item).exists():
            yield f"{path}: no such file: {item}; give a path that exists, relative to {Path.cwd()}"


def bad_number(number: float, rule: Mapping[str, Any]) -> str | None:
    """Why a number cannot be the value of an option with this metadata, or None.

    >>> bad_number(1.0, {"below": 1, "unit": "steps"})
    '1.0 steps is too large; it must be less than 1 steps'
    """
    unit = f" {rule['unit']}" if rule.get("unit") else ""
    if isinstance(number, float) and not math.isfinite(number):
        return f"{number} is not finite; give a number"
    low, high, above, below = (rule.get(bound) for bound in ("low", "high", "above", "below"))
    if isinstance(number, int):  # what Arrow and others hold
        low, high = -(2**63) if low is None else low, 2**63 - 1 if high is None else high
    if low is not None and number < low:
        return f"{_shown(number)}{unit} is too small; the least is {_digits(low)}{unit}"
    if above is not None and number <= above:
        return f"{_shown(number)}{unit} is too small; it must be more than {_digits(above)}{unit}"
    if high is not None and number > high:
        return f"{_shown(number)}{unit} is too large; the most is {_digits(high)}{unit}"
    if below is not None and number >= below:
        return f"{_shown(number)}{unit} is too large; it must be less than {_digits(below)}{unit}"
    return None


def as_written(number: float) -> Fraction:
    """The decimal that stands in the config; the float is a little more or less.

    >>> math.ceil(0.07 * 100), math.ceil(as_written(0.07) * 100)
    (8, 7)
    """
    return Fraction(str(number))


def _digits(bound: float) -> str:
    """A bound as one would write it: a whole number with all its digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _shown(value: Any) -> str:
    """A value of any size in 200 characters."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        text = "a very long number"
    return text if len(text) <= 200 else f"{text[:197]}..."


def bad_regex(pattern: str) -> str | None:
    """Why `pattern` is no regular expression, or None."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}; see docs.python.org/3/library/re.html"
    return None


# Bytes of a name of a file or folder, which may have 255; of one that gets endings, such as `.checkpoints`, fewer.
LONGEST_PART, LONGEST_NAME = 255, 200
WORD_BYTES = 2**16  # of a text; one word of a command line may have twice as many
NAME = r"\w[\w.-]*"  # of a run, a domain, a set: part of a path, and one word on a command line
LANGUAGE = r"\w[\w-]*"
# What Snakemake replaces in a path: {wildcards} and <variables>.
REPLACED = re.compile(r"[{}<>]")
# Controls but tabs and line feeds, which a text may have, and halves of surrogate pairs: bytes that are no UTF-8.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def bad_name(name: str) -> str | None:
    """Why `name` cannot be part of a path and a word on a command line, or None.

    >>> bad_name("neutral-1.5"), bad_name("../x")
    (None, "a name is made of letters, digits, '_', '.' and '-', and begins with none of the last two; rename it")
    """
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        return f"a name has at most {LONGEST_NAME} bytes, since files are called after it; shorten it"
    if re.fullmatch(NAME, name):
        return None
    return "a name is made of letters, digits, '_', '.' and '-', and begins with none of the last two; rename it"


def bad_language(language: str) -> str | None:
    """The same of a language."""
    if re.fullmatch(LANGUAGE, language):
        return None
    return f"{language!r}; a language is made of letters, digits, '_' and '-', and begins with none of the last"


def bad_path(path: str) -> str | None:
    """Why the workflow cannot have a path, or None. Blanks, quotes and the like may be in it.

    >>> bad_path("it's $(here).warc.gz")
    >>> bad_path("{x}.warc.gz")
    "'{x}.warc.gz': no braces or angle brackets in a path, which Snakemake would replace; rename it"
    """
    if not path:
        return "an empty path; name a file or folder"
    if max(len(part.encode(errors="replace")) for part in path.split("/")) > LONGEST_PART:
        return f"{path[:LONGEST_NAME]!r}…: a name of more than {LONGEST_PART} bytes in a path; shorten it"
    if CONTROLS.search(path) or "\n" in path or "\t" in path:
        return f"{path!r}: no line breaks, other controls or broken UTF-8 in a path; rename it"
    if REPLACED.search(path):
        return f"{path!r}: no braces or angle brackets in a path, which Snakemake would replace; rename it"
    return None


def bad_texts(data: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, problem) of each text in plain JSON data that no command line can have, or that steers a terminal."""
    if isinstance(data, str) and (match := CONTROLS.search(data)):
        yield key, f"{data[:100]!r} has the character {match[0]!r}; take it out"
    elif isinstance(data, str) and len(data.encode()) > WORD_BYTES:
        yield key, f"{len(data):,} characters are more than a command line can have in a text; shorten it"
    elif data == "--":  # argparse drops it, even as a value
        yield key, "'--' is no text that a command line can have; write another"
    elif isinstance(data, dict):
        for name, value in data.items():
            yield from bad_texts(name, f"{key}.{name!r}" if CONTROLS.search(name) else key)
            yield from bad_texts(value, f"{key}.{name}".lstrip("."))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from bad_texts(value, f"{key}[{number}]")


def type_name(kind: Any) -> str:
    """A type as a person would say it: 'whole number', 'list of text', …"""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(a) for a in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {type_name(arguments[1])}"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names[kind] if kind in names else kind.__name__.lower()


def wanted(kind: Any) -> str:
    """What to write for a value of a type, as a person would say it.

    >>> wanted(int | None), wanted(list[int]), wanted(dict[str, list[list[str]]])
    ('a whole number or null', 'a list of whole numbers', 'names, each with a list of lists of text')
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(wanted, arguments))
    if origin is list:
        return "a list of " + re.sub(r"^a ([\w ]*(?:number|list))", r"\1s", wanted(arguments[0]))
    if origin is dict:
        return f"names, each with {wanted(arguments[1])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(kind, "keys and values")


# Command lines ------------------------------------------------------------------------------------


def _is_plain(kind: Any) -> bool:
    return kind in (int, float, str, bool, float | str) or kind == list[str]


def _plain(kind: Any) -> Any:
    """`kind` without `| None`."""
    members = [a for a in typing.get_args(kind) if a is not type(None)]
    return members[0] if typing.get_origin(kind) is types.UnionType and len(members) == 1 else kind


def add_arguments(parser: argparse._ArgumentGroup, cls: type) -> None:
    """A flag for each option of `cls`; options with structure are given as JSON."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = _plain(hints[field.name])
        unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
        default = default_of(field)
        shown = "required" if default is dataclasses.MISSING else f"default: {_dump(default)}"
        text = f"{field.metadata['doc']}{unit} ({shown})".replace("%", "%%")
        keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "dest": field.name}
        if kind is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif kind == list[str]:  # --flag a b, or --flag=a --flag=b: flags()
            keywords |= {"action": "extend", "nargs": "*", "metavar": "TEXT"}
        elif _is_plain(kind):
            reader = kind if isinstance(kind, type) else str
            keywords |= {"type": reader, "metavar": {int: "N", float: "X"}.get(kind, "TEXT")}
        else:
            keywords |= {"type": json.loads, "metavar": "JSON"}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **keywords)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of an option, or MISSING."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _dump(value: Any) -> str:
    return json.dumps(to_data(value), ensure_ascii=False)


def to_data(value: Any) -> Any:
    """Options as plain JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_data(v) for k, v in value.items()}
    return [to_data(v) for v in value] if isinstance(value, list) else value


def flags(options: Any, only: Container[str] | None = None, without: Container[str] = ()) -> list[str]:
    """The words that give a stage exactly these options: `add_arguments` the other way round.

    `only`, `without`: names of options, to pass them on in two parts. Each value is in one word with its flag, so
    that none is taken for a flag, whatever it begins with, and an empty one is not lost.

    >>> @dataclasses.dataclass
    ... class Search:
    ...     words: list[str] = option(["-x", ""])
    >>> flags(Search())
    ['--words=-x', '--words=']
    """
    words: list[str] = []
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        kind = _plain(hints[field.name])
        if value is None or field.name in without or (only is not None and field.name not in only):
            continue
        if kind is bool:
            words.append(flag if value else f"--no-{flag[2:]}")
        elif kind == list[str]:
            words += [f"{flag}={text}" for text in value] or [flag]
        else:
            words.append(f"{flag}={value if _is_plain(kind) else _dump(value)}")
    return words


# The schema for editors ---------------------------------------------------------------------------


SCHEMA_NAMES = {
    **{"low": "minimum", "high": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"},
    "choices": "enum",
}


def json_schema(kind: Any) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a type: what editors use to complete and check a config."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        properties = {}
        for field in dataclasses.fields(kind):
            rule = {k: v for k, v in field.metadata.items() if v not in (None, "", ())}
            entry = json_schema(hints[field.name])
            entry["description"] = rule.get("doc", "") + (f" [{rule['unit']}]" if "unit" in rule else "")
            for ours, theirs in SCHEMA_NAMES.items():
                if ours in rule:
                    target = entry.get("items", entry)
                    target[theirs] = list(rule[ours]) if ours == "choices" else rule[ours]
            if default_of(field) is not dataclasses.MISSING:
                entry["default"] = to_data(default_of(field))
            properties[field.name] = entry
        required = [f.name for f in dataclasses.fields(kind) if default_of(f) is dataclasses.MISSING]
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [json_schema(a) for a in arguments]}
    if origin is list:
        return {"type": "array", "items": json_schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": json_schema(arguments[1])}
    names = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
    return {"type": names[kind]}
