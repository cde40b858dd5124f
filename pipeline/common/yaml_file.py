"""YAML files, which may come from others: none costs more than it has bytes, and no key is lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.common.config import ConfigError
from pipeline.common.errors import StageError, one_line
from pipeline.common.files import read_json

# Far beyond what people write: the largest file here has 8 kB and 500 values. Without a bound, 300 bytes that name
# a list ten times in the next, and so on, stand for a billion values.
FILE_BYTES, VALUES, DEPTH, KEY_CHARS = 2**18, 50_000, 50, 1000
# Such as 1:30:00, in base 60, which takes quadratic time to read.
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """`parse_yaml` of a file; what is named .json is read as JSON, as Snakemake does: YAML takes no tabs, and the
    escapes of an emoji for two halves. Raises ConfigError also where there is no such file."""
    try:
        if Path(path).suffix == ".json":
            return _mapping(read_json(path, "correct it"))
        with Path(path).open("rb") as file:
            return parse_yaml(file.read(FILE_BYTES + 1))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give --configfile one of configs/*.yaml") from None
    except StageError as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_yaml(text: bytes) -> dict[str, Any]:
    """The mapping that a text is; of an empty text an empty one. Raises ConfigError as `parse_value` does."""
    data = parse_value(text)
    return {} if data is None else _mapping(data)


def parse_value(text: bytes) -> Any:
    """What a text is, by PyYAML's safe loader; of an empty text None.

    Raises ConfigError where it is no such YAML, a key stands twice in one mapping, or it is beyond FILE_BYTES,
    VALUES (which count wherever an alias repeats them), DEPTH or KEY_CHARS.
    """
    if len(text) > FILE_BYTES:
        raise ConfigError(f"longer than {FILE_BYTES:,} bytes; put long lists into files of their own")
    try:
        loader = yaml.SafeLoader(text.decode())
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {})
        return loader.construct_document(root)
    except RecursionError:
        raise ConfigError(f"nested deeper than {DEPTH}, or in itself; write it flatter") from None
    except ConfigError:
        raise
    # Of a value too, such as the date 2026-13-01, or `!!bool x`, on which the loader fails in a way of its own.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"not valid YAML: {one_line(error)}") from None


def _mapping(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"expected keys and values, found a {type(data).__name__}")
    return data


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node stands for, aliases followed, and how deep they are nested.

    `known` has them by the id of each node, so that one that is named often is measured once. Raises ConfigError
    where the node must not be built, RecursionError where it is too deep.
    """
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
            _check_keys(node)
        elif node.tag in NUMBERS and len(node.value) > KEY_CHARS:
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: a number of more than {KEY_CHARS} characters; shorten it")
        measures = [_measure(part, known) for part in parts]
        count = 1 + sum(count for count, _ in measures)
        depth = 1 + max((depth for _, depth in measures), default=0)
        if depth > DEPTH:
            raise RecursionError
        if count > VALUES:
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: stands for more than {VALUES:,} values; repeat less by aliases")
        known[id(node)] = count, depth
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    """Raises ConfigError where a key is too long, or stands twice: PyYAML would forget the first of two values."""
    keys = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if len(key.value) > KEY_CHARS:
                raise ConfigError(f"line {line}: a key of more than {KEY_CHARS} characters; shorten it")
            if key.value in keys:
                raise ConfigError(f"line {line}: {key.value!r} stands twice in one mapping; take one away")
            keys.add(key.value)
