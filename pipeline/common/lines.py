"""Lines of text files that others made: a line without an end, or a .gz without one, is refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.errors import StageError, one_line

LONGEST = 2**26  # characters of a line


def read_lines(
    path: str | Path,
    errors: str = "strict",
    longest: int = LONGEST,
    most: int | None = None,
    key: str = "",
    newline: str | None = None,
) -> Iterator[str]:
    """The lines of a text in UTF-8, with their newlines; a file named .gz is unpacked.

    longest, most: characters of a line, and of all that is read; `key` of the config raises the latter. `errors`
    and `newline` are those of `open`. Raises StageError where there are more, and where the file is no such text.
    """
    number = chars = 0
    try:
        opened = gzip.open if str(path).endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8", errors=errors, newline=newline) as file:
            while line := file.readline(longest + 1):
                number += 1
                chars += len(line)
                if len(line) > longest:
                    raise StageError(
                        f"{path}, line {number}: longer than {longest:,} characters; it is no list of lines"
                    )
                if most is not None and chars > most:
                    raise StageError(f"{path}: more than {most:,} characters; raise {key}, or give a shorter file")
                yield line
    except UnicodeDecodeError as error:
        raise StageError(f"{path}: not UTF-8 behind line {number} ({one_line(error)}); convert it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StageError(f"{path}: not a whole .gz file ({one_line(error)}); fetch it again") from None
