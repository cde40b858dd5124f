"""Arrow files as anyone may have made them: what a file claims is checked before it is used.

Arrow's readers trust offsets, so that a damaged or hostile file ends the process or takes all memory. Here the
sizes that a file claims are bounded before anything is unpacked, and what is read is validated in full, at some
3 GB/s. Source: the Arrow columnar format, sections "IPC" and "Compression".
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import StageError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

# Bytes of a record batch, or of all dictionaries of a file, when unpacked: what one column of strings may hold.
MOST_UNPACKED = 2**31
# Rows that are handed on at a time: each takes far more memory as Python objects than in a file.
ROWS_AT_ONCE = 2**16

MAGIC = b"ARROW1"  # of the file format, which is a stream between two of these, with a table of its batches
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream


def read_batches(
    path: str | Path, schema: pa.Schema | None = None, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow file or stream, checked, at most ROWS_AT_ONCE rows at a time.

    With a `schema` only its columns are read, in its order; they must have its types (any type of string counts
    as string). With `columns` only these, each once, of whatever type they are. Raises StageError where the file
    has not these columns, is not whole, or is not sound.
    """
    import pyarrow as pa

    check_sizes(path)
    with _naming(path), pa.OSFile(str(path), "rb") as source:
        options = pa.ipc.IpcReadOptions()
        if schema is not None:
            found = _open(source).schema
            _check_columns(path, found, schema)
            options.included_fields = [found.get_field_index(name) for name in schema.names]
        elif columns is not None:
            found = _open(source).schema
            options.included_fields = [found.get_all_field_indices(name)[0] for name in columns]
        for batch in _open(source, options):
            if (size := _bytes_of_views(batch)) > MOST_UNPACKED:
                raise _too_large(path, batch.num_rows, size)
            batch.validate(full=True)
            if schema is not None:
                batch = batch.select(schema.names)
                if batch.schema.types != schema.types:
                    batch = batch.cast(schema)
            for first in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield batch.slice(first, ROWS_AT_ONCE)


def map_table(path: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """An Arrow file or stream without compression as a table of checked views of the mapped file.

    Raises StageError as `read_batches` does, and where the file is compressed, since memory would hold all of it.
    """
    import pyarrow as pa

    check_sizes(path, mapped=True)
    with _naming(path), pa.memory_map(str(path)) as source:
        table = _open(source).read_all()
        if schema is not None:
            _check_columns(path, table.schema, schema)
            table = table.select(schema.names)
        table.validate(full=True)
    return table


def read_schema(path: str | Path) -> pa.Schema:
    """The schema of an Arrow file or stream, with its metadata; no rows are read. Raises StageError."""
    import pyarrow as pa

    with _naming(path), pa.OSFile(str(path), "rb") as source:
        return _open(source).schema


def read_metadata(path: str | Path, key: str) -> dict[str, Any]:
    """The JSON object under a key of a schema's metadata. Raises StageError where there is none."""
    try:
        data = json.loads((read_schema(path).metadata or {})[key.encode()])
    except (KeyError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise StageError(f"{path}: its Arrow metadata have no JSON object {key!r}; it is a file of another kind")
    return data


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Inside it, an error of Arrow, which names no file, becomes a StageError that does."""
    import pyarrow as pa

    try:
        yield
    except MemoryError:  # in a process with bounds
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name that is not UTF-8
        if isinstance(error, OSError) and error.errno is not None:  # of the system: no such file
            raise
        raise StageError(f"{path}: not a sound Arrow file ({one_line(error)}); make or fetch it again") from None


def _open(source: Any, options: Any = None) -> Any:
    """The reader of the stream in a file, which may have the file format around it."""
    import pyarrow as pa

    source.seek(0)
    source.seek(8 if source.read(len(MAGIC)) == MAGIC else 0)
    return pa.ipc.open_stream(source, options=options)


def _check_columns(path: str | Path, found: pa.Schema, schema: pa.Schema) -> None:
    for field in schema:
        places = found.get_all_field_indices(field.name)
        if len(places) != 1 or not _same(found.types[places[0]], field.type):
            there = ", ".join(f"{other.name} ({other.type})" for other in found)
            raise StageError(
                f"{path}: expected one column {field.name} ({field.type}); found {one_line(Exception(there))}"
            )


def _same(found: pa.DataType, expected: pa.DataType) -> bool:
    import pyarrow.types as is_type

    if is_type.is_string(expected):
        return any(check(found) for check in (is_type.is_string, is_type.is_large_string, is_type.is_string_view))
    return bool(found == expected)


# Sizes ---------------------------------------------------------------------------------------------


def _too_large(path: str | Path, rows: int, size: int) -> StageError:
    return StageError(
        f"{path}: a batch claims {rows:,} rows in {size:,} bytes; write batches of at most {MOST_UNPACKED:,} bytes"
    )


def _bytes_of_views(batch: pa.RecordBatch) -> int:
    """Bytes of the strings in columns of views, which begin with their lengths; all may be of one place."""
    import numpy as np
    import pyarrow as pa

    views = [column.buffers()[1] for column in batch.columns if pa.types.is_string_view(column.type)]
    lengths = (np.frombuffer(view, np.int32, len(view) // 4)[::4] for view in views if view)
    return sum(int(np.maximum(length, 0).sum(dtype=np.int64)) for length in lengths)


def check_sizes(path: str | Path, mapped: bool = False) -> int:
    """The rows of a file. Raises StageError where it is cut off, or claims more than fits its size or in memory.

    The file is mapped, and only its metadata are read.
    """
    import pyarrow as pa

    total = dictionaries = 0
    with _naming(path), pa.memory_map(str(path)) as source:
        is_file = source.read(len(MAGIC)) == MAGIC
        source.seek(8 if is_file else 0)
        messages = pa.ipc.MessageReader.open_stream(source)
        while True:
            try:
                message = messages.read_next_message()
            except StopIteration:
                break
            if message.type not in ("record batch", "dictionary"):
                continue
            try:
                rows, unpacked, compressed = _claims(message)
            except (struct.error, IndexError):
                raise StageError(f"{path}: not a sound Arrow file (metadata of a batch); fetch it again") from None
            total += rows if message.type == "record batch" else 0
            dictionaries += unpacked if message.type == "dictionary" else 0
            if rows > 8 * unpacked or (not mapped and max(unpacked, dictionaries) > MOST_UNPACKED):
                raise _too_large(path, rows, unpacked)
            if mapped and compressed:
                raise StageError(
                    f"{path}: is compressed, so that it cannot be mapped; write it without compression"
                )
        end = source.tell()
        source.seek(max(0, end - len(END)))
        whole = source.read(len(END)) == END
        source.seek(max(0, source.size() - len(MAGIC)))
        if not whole or (source.read(len(MAGIC)) != MAGIC if is_file else end != source.size()):
            raise StageError(f"{path}: cut off, or something is behind its end; make or fetch it again")
    return total


def _claims(message: Any) -> tuple[int, int, bool]:
    """(rows, bytes of the buffers when unpacked, whether they are compressed) that a batch claims.

    pyarrow tells none of it without unpacking, so this reads the FlatBuffers of Message.fbs: a table begins with
    the distance back to the places of its fields, and a compressed buffer with its length when unpacked.
    """
    data = memoryview(message.metadata)

    def field(table: int, number: int) -> int | None:
        """The place of a field of a table, or None where it has its default."""
        places = table - struct.unpack_from("<i", data, table)[0]
        if places < 0 or 4 + 2 * number >= struct.unpack_from("<H", data, places)[0]:
            return None
        offset = struct.unpack_from("<H", data, places + 4 + 2 * number)[0]
        return table + offset if offset else None

    def follow(place: int | None) -> int:
        if place is None:
            raise IndexError
        return place + int(struct.unpack_from("<I", data, place)[0])

    batch = follow(field(follow(0), 2))
    if message.type == "dictionary":
        batch = follow(field(batch, 1))
    length, compression = field(batch, 0), field(batch, 3)
    rows = 0 if length is None else struct.unpack_from("<q", data, length)[0]
    buffers = follow(field(batch, 2))
    count = struct.unpack_from("<I", data, buffers)[0]
    unpacked = 0
    for offset, size in struct.iter_unpack("<qq", data[buffers + 4 : buffers + 4 + 16 * count]):
        if compression is not None and size > 0:
            claim = struct.unpack_from("<q", message.body, offset)[0]
            size = claim if claim != -1 else size
        unpacked += max(0, size)
    return rows, unpacked, compression is not None
