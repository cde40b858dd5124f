"""Files that appear whole or not at all, and Arrow streams written that way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; when the block ends well, it becomes `path`.

    The bytes are synced before the rename, so that after a crash `path` is the old file, the new file, or
    absent, never a part. A `.part` left by a killed run is overwritten by the next.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """`atomic` for a whole folder; an earlier folder at `path` is replaced."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    for file in filter(Path.is_file, part.rglob("*")):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    shutil.rmtree(path, ignore_errors=True)
    part.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


# A record batch ends at so many rows or so much text: small enough to stream, large enough to compress well.
ROWS_PER_BATCH = 1024
TEXT_PER_BATCH = 32 * 2**20


def write_arrow(
    path: str | Path,
    schema: pa.Schema,
    rows: Iterable[dict[str, Any]],
    before_rename: Callable[[], None] = lambda: None,
) -> int:
    """Write rows with a `text` as an Arrow IPC stream with zstd, atomically; returns how many.

    Where batches end depends on the rows alone, so that the same rows give the same bytes.
    `before_rename` runs when all rows are written, while the file is not there yet.
    """
    import pyarrow as pa

    batches = (pa.RecordBatch.from_pylist(batch, schema) for batch in _batched(rows))
    return write_batches(path, schema, batches, before_rename)


def _batched(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    pending: list[dict[str, Any]] = []
    chars = 0
    for row in rows:
        pending.append(row)
        chars += len(row["text"])
        if len(pending) == ROWS_PER_BATCH or chars >= TEXT_PER_BATCH:
            yield pending
            pending, chars = [], 0
    if pending:
        yield pending


def write_batches(
    path: str | Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    before_rename: Callable[[], None] = lambda: None,
    compression: str | None = "zstd",
) -> int:
    """`write_arrow` for rows that are record batches already. Without compression the file can be mapped."""
    import pyarrow as pa

    count = 0
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with atomic(path) as part:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
                count += batch.num_rows
        before_rename()
    return count


def write_list(path: str | Path, files: Iterable[str]) -> None:
    """Write a list of Arrow files, which `read_arrow` reads as one; their names are relative to its folder."""
    folder = Path(path).parent
    write_json(path, {"files": [str(Path(file).relative_to(folder)) for file in files]})


def read_arrow(path: str | Path) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow IPC stream, one in memory at a time; or of a list (.json) of streams.

    Raises FileNotFoundError that says how to make a listed file again.
    """
    import pyarrow as pa

    if Path(path).suffix != ".json":
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
            yield from reader
        return
    for name in read_json(path)["files"]:
        file = Path(path).parent / name
        if not file.exists():
            cure = f"listed file is missing; delete {path} and run again, which makes both"
            raise FileNotFoundError(errno.ENOENT, cure, str(file))
        yield from read_arrow(file)


def read_schema(path: str | Path) -> pa.Schema:
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        return reader.schema


def stamp(schema: pa.Schema, stage: str, options: Any) -> pa.Schema:
    """`schema` with the stage, its options and the versions that made the file in its metadata."""
    import importlib.metadata as metadata

    from pipeline.config import to_data

    packages = ("neutral-residues", "fastwarc", "resiliparse", "fasttext-community", "pyarrow")
    versions = {name: metadata.version(name) for name in packages}
    record = {"stage": stage, "options": to_data(options), "versions": versions}
    return schema.with_metadata({"pipeline": json.dumps(record, sort_keys=True)})
