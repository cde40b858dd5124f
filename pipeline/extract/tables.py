"""Two columns of a Parquet or Arrow file as JSON lines, read in a process of its own.

3 kB of Parquet may unpack to many GiB before a row can be counted, and its native reader believes what a file says
of its parts; what an Arrow file says is checked before. So another process reads it, in bounded memory and
processor time, and writes lines to a pipe: first an object {columns, rows}, then for each row a list of text and
URL, or an object {problem, bytes}. It may end early; its exit status says why.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common.arrow import check_sizes, read_batches, read_schema
from pipeline.common.guard import bound, leave
from pipeline.crawl.text_files import kind_of

COMMAND = [sys.executable, "-m", "pipeline.extract.tables"]
MEMORY = 4 * 2**30  # bytes of address space
SECONDS, BYTES_PER_SECOND = 60, 2**18  # of processor time; one more for so many bytes of the file
ROWS, BUFFER = 64, 2**20  # rows and bytes read at a time
NAMES, NAME_CHARS = 20, 100  # columns that are named where the wanted one is missing
DAMAGED, OUT_OF_MEMORY = 1, 2  # exit status
TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def start(path: str, text: str, url: str, longest: int) -> subprocess.Popen[bytes]:
    """The process that writes the lines of a file to its standard output. Rows longer than `longest` bytes are
    problems."""
    return subprocess.Popen(
        [*COMMAND, str(Path(path).resolve()), text, url, str(longest)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the ledger has the reason
    )


# The process --------------------------------------------------------------------------------------


def write_lines(path: str, text: str, url: str, longest: int, out: IO[bytes]) -> None:
    """Write the lines of a file. Raises MemoryError, and whatever the reader raises for a damaged file."""

    def write(line: Any) -> None:
        out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    with contextlib.ExitStack() as stack:
        if kind_of(path) == ".arrow":
            names, rows = read_schema(path).names, check_sizes(path)
        else:
            # Not mapped, nor whole columns at a time: only what is used counts as memory.
            file = stack.enter_context(pq.ParquetFile(path, buffer_size=BUFFER))
            names, rows = file.schema_arrow.names, file.metadata.num_rows
        write({"columns": [text] if text in names else shown_names(names), "rows": rows})
        out.flush()  # it is there even if what follows crashes
        columns = [name for name in dict.fromkeys((text, url)) if name in names]
        if kind_of(path) == ".arrow":
            batches = _slices(read_batches(path, columns=columns))
        else:
            batches = file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False)
        for batch in batches:
            for row in zip(_strings(batch, text), _strings(batch, url), strict=True):
                write(_line(*row, longest))
            out.flush()


def shown_names(names: Iterable[str]) -> list[str]:
    """The names of columns or keys as a message has them: the first NAMES of them, of NAME_CHARS at most."""
    first = itertools.islice(names, NAMES)
    return [name.encode("utf-8", "replace").decode()[:NAME_CHARS] for name in first]


def _slices(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from (batch.slice(first, ROWS) for first in range(0, batch.num_rows, ROWS))


def _strings(batch: pa.RecordBatch, name: str) -> list[bytes | None]:
    """The column of this name in UTF-8, for each row; None where it has no text, as in a column of numbers."""
    for place in batch.schema.get_all_field_indices(name)[:1]:
        column = batch.column(place)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if any(is_text(column.type) for is_text in TEXT_TYPES):
            return list(column.cast(pa.large_binary()).to_pylist())
    return [None] * batch.num_rows


def _line(text: bytes | None, url: bytes | None, longest: int) -> list[str | None] | dict[str, Any]:
    size = len(text or b"") + len(url or b"")
    if size > longest:
        return {"problem": "row_too_long", "bytes": size}
    try:
        return [text if text is None else text.decode(), url if url is None else url.decode()]
    except UnicodeDecodeError:
        return {"problem": "not_utf8", "bytes": size}


def main(path: str, text: str, url: str, longest: str) -> int:
    """The process: its exit status is 0 where all rows were written."""
    bound(SECONDS + Path(path).stat().st_size // BYTES_PER_SECOND, MEMORY)
    try:
        with os.fdopen(os.dup(1), "wb") as out:
            write_lines(path, text, url, int(longest), out)
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception:  # of a file that is no Parquet, or damaged: there is no list of all that it may be
        return DAMAGED
    return 0


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
