"""The files that a job reads: local ones, and those of fetched folders, with where each comes from.

A folder holds its files and `fetched.json`: the name of each and its source, and what could not be fetched, by
reason. A WARC made of single records has an Arrow file beside it that says for each record where it comes from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.common.config import ConfigError, option, read
from pipeline.common.errors import StageError
from pipeline.common.files import inside, read_arrow, read_json, replace_folder, write_batches, write_json
from pipeline.network.urls import SHORT, digest

LIST = "fetched.json"
NAMES = range(1, 2**14)  # characters of the name of a file of a crawl, or of its URL
NAME_BYTES = 190  # of a name, so that with its hash and what stages add it has less than 255
# Python has half surrogate pairs for bytes that are no UTF-8.
NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
ORIGIN_SCHEMA = pa.schema(
    [("offset", pa.int64()), ("warc", pa.dictionary(pa.int32(), pa.string())), ("warc_offset", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class _File:
    file: str = option(doc="its name in the folder")
    source: str = option(doc="where it comes from")
    origins: str | None = option(None, "the name of the file with the origins of its records")

    def problems(self) -> Iterator[tuple[str, str]]:
        if NO_NAME.search(self.source) or len(self.source) not in NAMES:
            yield "source", f"{self.source!r:.200} is no name of a file"


@dataclass(frozen=True, kw_only=True)
class _Failure:
    reason: str = option(doc="why it is not there")
    documents: int = option(doc="how many are lost", low=0)
    bytes: int = option(doc="how long they are", low=0)
    source: str | None = option(None, "the file, where a whole one is missing")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not re.fullmatch(r"\w{1,100}", self.reason, re.ASCII):
            yield "reason", f"{self.reason!r:.200} is no word"


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """What a list has in it; docs/formats.md."""

    files: list[_File] = option(doc="the files")
    failed: list[_Failure] = option(doc="what could not be fetched")


@dataclass(frozen=True)
class InputFile:
    """A file to read, and what provenance calls it: `source`, or for each of its records what `origins` says.

    `unique_name` is its name with a hash of where it comes from, for what is made of it: files from several places
    may have one name.
    """

    path: str
    source: str
    unique_name: str
    origins: str | None = None  # path of the Arrow file with the origins of its records

    @property
    def named(self) -> str:
        """Where people find it: a local file by its path, a fetched one by its source."""
        return self.path if Path(self.path).name == self.source else self.source


def input_files(paths: list[str]) -> tuple[list[InputFile], list[dict[str, Any]]]:
    """The files that `paths` name, those of fetched folders in their place, and what could not be fetched.

    A failure is {reason, documents, bytes}, as `finish_folder` was given it. Raises StageError for a file that is
    not there, or has a name that no table can hold.
    """
    for name in paths:
        if NO_NAME.search(name):
            raise StageError(f"{name!r}: its name is not UTF-8, or has control characters; rename the file")
    files: list[InputFile] = []
    failures: list[dict[str, Any]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise StageError(f"{path}: no such file; give one that exists, relative to {Path.cwd()}")
        if not path.is_dir():
            files.append(InputFile(str(path), path.name, unique_name(path.name, str(path))))
            continue
        listed, not_fetched = read_folder(path)
        failures += not_fetched
        for entry in listed:
            name, source, origins = entry["file"], entry["source"], entry.get("origins")
            files.append(
                InputFile(str(path / name), source, unique_name(name, source), origins and str(path / origins))
            )
    return files, failures


def failure_row(failure: dict[str, Any]) -> dict[str, Any]:
    """A failure of `input_files` as a row of a ledger."""
    row = {name: failure[name] for name in ("reason", "documents", "bytes")}
    return row | {"file": failure.get("source")}


def unique_name(name: str, source: str) -> str:
    """The name of a file with a hash of where it comes from; of a very long name its end.

    >>> unique_name("a.warc.gz", "crawl/a.warc.gz") == unique_name("a.warc.gz", "other/a.warc.gz")
    False
    """
    end = os.fsencode(name)[-NAME_BYTES:].decode(errors="ignore")
    return f"{end}-{digest(f'{name} {source}')[:SHORT]}"


def finish_folder(folder: Path, output: str, files: list[dict[str, Any]], failed: list[dict[str, Any]]) -> None:
    """Write the list of the files in `folder` into it, and move it to `output`, in place of an earlier folder.

    A file is {file, source}, and {origins} where its records have origins: the name of the file with these. A
    failure is {reason, documents, bytes}, and {source} where it is a whole file.
    """
    write_json(folder / LIST, {"files": files, "failed": failed})
    replace_folder(folder, output)


def read_folder(folder: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The files and the failures that `finish_folder` was given for a folder.

    Raises StageError where its list is damaged, or names what is not in the folder itself.
    """
    path, cure = inside(folder, LIST), "delete the folder and fetch it again"
    listed = read_json(path, cure)
    try:
        read(_Listed, listed, str(path))
    except ConfigError as error:
        raise StageError(f"{error}; {cure}") from None
    for entry in listed["files"]:
        for name in filter(None, (entry["file"], entry.get("origins"))):
            if inside(folder, name).name != name:
                raise StageError(f"{path}: {name!r:.200} is in another folder; {cure}")
    names = [entry["file"] for entry in listed["files"]]
    if len(set(names)) < len(names):
        raise StageError(f"{path}: names a file twice, whose pages would count twice; {cure}")
    return listed["files"], listed["failed"]


def write_origins(path: Path, origins: Iterable[tuple[int, str, int]]) -> None:
    """Write for each record (offset in our file, the crawl's file that it comes from, its offset there)."""
    columns = list(zip(*origins, strict=True)) or [(), (), ()]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ORIGIN_SCHEMA, strict=True)]
    write_batches(path, ORIGIN_SCHEMA, [pa.record_batch(arrays, schema=ORIGIN_SCHEMA)])


def read_origins(path: str | Path) -> dict[int, tuple[str, int]]:
    """For each record, by its offset in our file, (the crawl's file that it comes from, its offset there).

    Raises StageError where one is missing, and as `read_arrow` does.
    """
    origins: dict[int, tuple[str, int]] = {}
    for batch in read_arrow(path, ORIGIN_SCHEMA):
        offsets, warcs, places = batch.columns
        if offsets.null_count or places.null_count or warcs.indices.null_count or warcs.dictionary.null_count:
            raise StageError(f"{path}: a record without its origin; fetch its folder again")
        names = warcs.dictionary.to_pylist()  # each once in memory, however many records have it
        of_records = (names[code] for code in warcs.indices.to_pylist())
        origins.update(zip(offsets.to_pylist(), zip(of_records, places.to_pylist(), strict=True), strict=True))
    return origins
