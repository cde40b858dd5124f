"""Plain text to pages: Parquet and JSON lines, such as a dump of Wikipedia, beside what is extracted from HTML.

The pages go through deduplication and all later stages like those of a crawl. Their `warc` is the file, their
`offset` the number of the row or line.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.common.errors import StageError
from pipeline.common.files import stamp, write_arrow, write_list
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.crawl.origins import InputFile, failure_row, input_files
from pipeline.extract.language import check_languages, identify, load_model, wanted_languages
from pipeline.extract.main_text import clean_text
from pipeline.extract.options import Extract
from pipeline.extract.pages import UNFIT, fit_page, fit_text
from pipeline.extract.parquet import OUT_OF_MEMORY, start
from pipeline.warc.unpacking import Spend, UnpacksTooFar, allowance

PIECE = 2**20
LINE_COST = 1000  # bytes that a line counts as besides its own, for the time that it takes


@dataclass(frozen=True)
class TextRow:
    """A row of a file, numbered from 0, and what its columns of text and URL hold: any type, or None."""

    number: int
    text: Any
    url: Any


@dataclass(frozen=True)
class Unread:
    """Rows of a file that cannot be had, for a reason, and their bytes, as far as these are known."""

    reason: str
    documents: int = 1
    bytes: int = 0


def read_texts(
    options: Extract,
    files: list[str],
    language_id: str,
    text: str,
    url: str,
    language: str | None,
    output: str,
    ledger: str,
    decisions: str | None = None,
) -> None:
    """Write the texts in some files as one file of pages, listed in `output` as `extract` does.

    `text` and `url` are the names of columns or keys; `language` is that of all texts, or None: it is identified.
    The ledger has the name `extract`, since this stage stands in its place. Raises StageError where a file has no
    such column or key for the text.
    """
    book = Ledger("extract", options)
    inputs, not_fetched = input_files(files)
    for failure in not_fetched:
        book.fail_unread(**failure_row(failure))
    name = Path(output).with_suffix(".arrow").name
    pages = Path(output).parent / "texts" / name
    model = None
    if not language:
        check_languages(options.languages, language_id)
        model = load_model(language_id)
    rows = (page for file in inputs for page in _pages(options, file, text, url, language, model, book))
    write_arrow(pages, stamp(PAGE_SCHEMA, "text", options), rows)
    book.write(ledger, decisions)
    write_list(output, [str(pages)])


def _pages(
    options: Extract, file: InputFile, text: str, url: str, language: str | None, model: Any, book: Ledger
) -> Iterator[dict[str, Any]]:
    groups = wanted_languages(model, options.languages, options.language_groups).groups if model else {}
    rows = _parquet_rows if ".parquet" in Path(file.path).suffixes else _json_rows
    for row in rows(file.path, text, url, options.max_html_bytes):
        if isinstance(row, Unread):
            book.fail_unread(row.reason, documents=row.documents, bytes=row.bytes, file=file.named)
            continue
        size = len(row.text.encode("utf-8", "replace")) if isinstance(row.text, str) else 0
        book.enter(documents=1, bytes=size)
        page = _page(options, row.text, language, model, groups)
        address = row.url if isinstance(row.url, str) and row.url else f"{file.source}#{row.number}"
        about = {"documents": 1, "bytes": size, "file": file.named, "place": row.number, "url": fit_text(address)}
        if not isinstance(page, str):
            place = {"url": address, "date": None, "warc": file.source, "offset": row.number, "record_id": ""}
            page = fit_page(page | place)
        if isinstance(page, str):
            (book.fail if page in ("no_text", *UNFIT) else book.drop)(page, **about)
            continue
        book.language(page["language"], documents=1)
        book.keep(**about, language=page["language"], score=page["language_score"])
        book.sample("kept", page["url"], page["text"])
        yield page


def _page(
    options: Extract, content: Any, language: str | None, model: Any, groups: Mapping[str, frozenset[str]]
) -> dict[str, Any] | str:
    """The page, or the reason why there is none."""
    if not isinstance(content, str):
        return "no_text"
    content = clean_text(fit_text(content))
    if len(content) < options.min_chars:
        return "text_too_short"
    label, score = (language, 1.0) if language else identify(model, content, options.language_chars, groups)
    if label not in options.languages:
        return "other_language"
    if score < options.language_min_score:
        return "uncertain_language"
    sha1 = hashlib.sha1(content.encode(), usedforsecurity=False).digest()
    digest = f"sha1:{base64.b32encode(sha1).decode()}"  # as WARCs have them
    return {"text": content, "language": label, "language_score": score, "charset": "utf-8", "digest": digest}


def _parquet_rows(path: str, text: str, url: str, longest: int) -> Iterator[TextRow | Unread]:
    """The rows of a Parquet file. Raises StageError where it has no such column for the text."""
    size = Path(path).stat().st_size
    rows, number, too_far = 1, 0, False
    with start(path, text, url, longest) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy
        try:
            for line in _lines(process.stdout, 6 * longest + 100, allowance(size)):  # JSON has 6 bytes for U+0001
                row = json.loads(line) if isinstance(line, bytes) else {}
                if isinstance(row, list):
                    yield TextRow(number, *row)
                elif "rows" in row:
                    rows = row["rows"]
                    if text not in row["columns"]:
                        names = ", ".join(row["columns"])
                        raise StageError(f"{path}: no column {text!r}; it has {names}: set crawl.texts.text")
                    continue
                else:
                    yield Unread(row["problem"], bytes=row["bytes"])
                number += 1
            process.wait()
        except UnpacksTooFar:
            too_far = True
        except (ValueError, TypeError, KeyError):  # it ended in the middle of a line
            pass
        finally:
            process.kill()
    if number < rows:
        too_far = too_far or process.returncode in (OUT_OF_MEMORY, -signal.SIGXCPU)
        # The file says how many rows it has; it is not believed to have more than bytes.
        lost = min(rows - number, max(size, 1))
        yield Unread("unpacks_too_far" if too_far else "damaged_file", documents=lost)


def _json_rows(path: str, text: str, url: str, longest: int) -> Iterator[TextRow | Unread]:
    """The rows of a file of JSON lines. Raises StageError where none of them has the key for the text."""
    found = with_text = 0
    with _open(path) as stream:
        try:
            for number, line in enumerate(_lines(stream, longest, allowance(Path(path).stat().st_size))):
                if isinstance(line, int):
                    yield Unread("row_too_long", bytes=line)
                    continue
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    found += 1
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    yield Unread("bad_json", bytes=len(line))
                    continue
                with_text += text in row
                yield TextRow(number, row.get(text), row.get(url))
        except (OSError, EOFError):  # all that follows is lost too
            yield Unread("truncated_file")
        except UnpacksTooFar:
            yield Unread("unpacks_too_far")
    if found and not with_text:
        raise StageError(f"{path}: no line has a key {text!r}; set crawl.texts.text")


def _open(path: str) -> IO[bytes]:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix)
    source = pa.OSFile(path, "rb")
    return io.BufferedReader(pa.CompressedInputStream(source, kind) if kind else source)


def _lines(stream: IO[bytes], longest: int, spend: Spend) -> Iterator[bytes | int]:
    """The lines of a stream; of one longer than `longest` bytes only its size. Raises UnpacksTooFar."""
    while line := stream.readline(longest):
        spend(LINE_COST + len(line))
        if len(line) < longest or line.endswith(b"\n"):
            yield line
            continue
        size = len(line)
        while not line.endswith(b"\n") and (line := stream.readline(PIECE)):
            spend(len(line))
            size += len(line)
        yield size
