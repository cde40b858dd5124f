"""Files that appear whole or not at all, and Arrow streams written that way; reading them again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pipeline.common.arrow import read_batches
from pipeline.common.errors import StageError, one_line
from pipeline.common.locks import delete, own_folder
from pipeline.common.shown import data_without_secrets

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FULL = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
}
JSON_BYTES = 2**26  # that are read; the parsed data may take thirty times as much


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, of this writer alone; when the block ends well, it becomes `path`.

    The bytes are synced before the rename, so that after a crash `path` is the old file, the new file, or
    absent, never a part. What a killed run left is deleted by the next one.
    """
    path = Path(path)
    with naming_full_disk(path), own_folder(path) as folder:
        part = folder / path.name
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Inside it, an error for a full disk, a quota or a limit gets `path` and what to do.

    Unless it names another file, which is not being written for `path`.
    """
    try:
        yield
    except OSError as error:
        named = str(error.filename or f"{path}.")  # own_folder() begins so
        if error.errno in FULL and named.startswith(f"{path}."):
            text = f"{os.strerror(error.errno)}; {FULL[error.errno]} and run again"
            raise OSError(error.errno, text, str(path)) from error
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """`atomic` for a whole folder; an earlier folder at `path` is replaced."""
    path = Path(path)
    with naming_full_disk(path), own_folder(path) as folder:
        part = folder / path.name
        part.mkdir()
        yield part
        replace_folder(part, path)


def replace_folder(part: Path, path: str | Path) -> None:
    """Move a folder to `path`, in place of what is there, when its bytes are on the disk.

    An earlier folder is moved out of the way, to beside `part`, before it is deleted: a kill leaves no half of it.
    """
    path, old = Path(path), part.with_name(".old")
    for file in filter(Path.is_file, part.rglob("*")):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    while True:
        with contextlib.suppress(FileNotFoundError):
            delete(old)
        with contextlib.suppress(FileNotFoundError):  # another writer has just moved it
            if path.is_dir():
                path.replace(old)
        try:
            part.replace(path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another writer was quicker
                raise
    with contextlib.suppress(OSError):
        delete(old)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The same file under another name: a hard link, or a copy where the file system allows no link."""
    target = Path(target)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:  # another writer was quicker
        link_or_copy(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        with atomic(target) as copy:
            shutil.copyfile(source, copy)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    """Write data as indented JSON in UTF-8, atomically."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read_json(path: str | Path, cure: str = "make the file again") -> Any:
    """The data of a JSON file. Raises StageError where it is none, or longer than JSON_BYTES; OSError."""
    try:
        return json.loads(read_small(path, cure))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: damaged JSON ({error}); {cure}") from None


def read_small(path: str | Path, cure: str) -> bytes:
    """The bytes of a file. Raises StageError where they are more than JSON_BYTES; OSError."""
    with Path(path).open("rb") as file:
        content = file.read(JSON_BYTES + 1)
    if len(content) > JSON_BYTES:
        raise StageError(f"{path}: more than {JSON_BYTES // 2**20} MiB; {cure}")
    return content


def inside(folder: str | Path, name: object) -> Path:
    """The path in `folder` of a file that another file names, which somebody else may have written.

    Raises StageError where it is no text without control characters, or leads out of the folder: it is absolute,
    has `..`, or is a link to elsewhere.
    """
    problem = ""
    if not isinstance(name, str) or not name or re.search(r"[\x00-\x1f\x7f]", name):
        problem = "is no name of a file"
    elif ".." in PurePath(name).parts or PurePath(name).is_absolute():
        problem = "leads out of the folder"
    else:
        path = Path(folder, name)
        try:
            path.exists()
            if path.resolve().is_relative_to(Path(folder).resolve()):
                return path
            problem = "is a link that leads out of the folder"
        except (OSError, ValueError, RuntimeError):  # too long, not to be encoded, links in a circle
            problem = "is no name of a file"
    raise StageError(f"{folder}: {name!r:.200} {problem}; whoever made the folder has to mend it")


def read_array(path: str | Path, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A .npy file, mapped. Raises StageError unless it is whole and of this type and shape; None is any length."""
    import numpy as np

    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy evaluates the header as Python data, and then maps what it says
        raise StageError(f"{path}: not a sound .npy file ({one_line(error)}); make it again") from None
    if (
        array.dtype != kind
        or len(array.shape) != len(shape)
        or any(want not in (None, size) for want, size in zip(shape, array.shape, strict=True))
    ):
        raise StageError(
            f"{path}: expected {kind} of shape {shape}, found {array.dtype} {array.shape}; make it again"
        )
    return array


# A record batch ends after so many rows or characters: small enough to stream, large enough to compress well.
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
    count = 0
    with arrow_rows(path, schema, before_rename) as write:
        for row in rows:
            write(row)
            count += 1
    return count


@contextlib.contextmanager
def arrow_rows(
    path: str | Path, schema: pa.Schema, before_rename: Callable[[], None] = lambda: None
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """`write_arrow` for rows that come one by one: yields the function that takes a row.

    So one pass over documents can fill several files. Holds the rows of one record batch in memory.
    """
    import pyarrow as pa

    pending: list[dict[str, Any]] = []
    chars = 0
    with _arrow_batches(path, schema, before_rename) as write_batch:

        def flush() -> None:
            nonlocal chars
            write_batch(pa.RecordBatch.from_pylist(pending, schema))
            pending.clear()
            chars = 0

        def write(row: dict[str, Any]) -> None:
            nonlocal chars
            pending.append(row)
            chars += len(row["text"])
            if len(pending) == ROWS_PER_BATCH or chars >= TEXT_PER_BATCH:
                flush()

        yield write
        if pending:
            flush()


def write_batches(
    path: str | Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str | None = "zstd"
) -> int:
    """`write_arrow` for ready-made record batches, under the metadata of `schema`; empty ones are left out.

    Without compression the file can be mapped into memory.
    """
    count = 0
    with _arrow_batches(path, schema, compression=compression) as write_batch:
        for batch in batches:
            if batch.num_rows:
                write_batch(batch.replace_schema_metadata(schema.metadata))
                count += batch.num_rows
    return count


@contextlib.contextmanager
def _arrow_batches(
    path: str | Path,
    schema: pa.Schema,
    before_rename: Callable[[], None] = lambda: None,
    compression: str | None = "zstd",
) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yields the function that appends a record batch to the stream at `path`."""
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(compression=compression)
    with atomic(path) as part:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, schema, options=options) as writer:
            yield writer.write_batch
        before_rename()


def write_list(path: str | Path, files: Iterable[str]) -> None:
    """Write a list of Arrow files, which `read_arrow` reads as one; their names are relative to its folder."""
    folder = Path(path).parent
    write_json(path, {"files": [str(Path(file).relative_to(folder)) for file in files]})


def read_arrow(path: str | Path, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """The checked record batches of an Arrow file, or of all files that a list (.json) names, in its order.

    One batch is in memory at a time. With a `schema` only its columns are read, in its order and of its types.
    Raises FileNotFoundError where a listed file is missing, with what to do, StageError where the list is none,
    and as `read_batches` does.
    """
    if Path(path).suffix != ".json":
        yield from read_batches(path, schema)
        return
    listed = read_json(path)
    if not (isinstance(listed, dict) and isinstance(listed.get("files"), list)):
        raise StageError(f"{path}: no list of files; delete it and run again")
    for name in listed["files"]:
        file = inside(Path(path).parent, name)
        if not file.exists():
            cure = f"listed file is missing; delete {path} and run again, which makes both"
            raise FileNotFoundError(errno.ENOENT, cure, str(file))
        yield from read_batches(file, schema)


def stamp(schema: pa.Schema, stage: str, options: Any) -> pa.Schema:
    """`schema` with metadata: the stage that wrote the file, its options, and the versions of libraries."""
    import importlib.metadata as metadata

    from pipeline.common.config import to_data

    packages = ("neutral-residues", "fastwarc", "resiliparse", "fasttext-community", "pyarrow")
    versions = {name: metadata.version(name) for name in packages}
    record = {"stage": stage, "options": data_without_secrets(to_data(options)), "versions": versions}
    return schema.with_metadata({"pipeline": json.dumps(record, sort_keys=True)})
