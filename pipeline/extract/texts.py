"""Plain text to pages: Parquet and JSON lines, such as a dump of Wikipedia, beside what is extracted from HTML.

The pages go through deduplication and all that follows like those of a crawl. Their `warc` is the file, their
`offset` the row or line.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common.errors import StageError
from pipeline.common.files import stamp, write_arrow, write_list
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.extract.html import clean_lines
from pipeline.extract.language import identify, load_model
from pipeline.extract.options import Extract
from pipeline.extract.webpages import Archive, archives

ROWS, LINE_MAX = 256, 2**26
Row = tuple[int, Any, Any]  # its number, and what is in the columns of text and URL


def read_texts(
    options: Extract,
    files: list[str],
    language_id: str,
    text: str,
    url: str,
    language: str | None,
    output: str,
    ledger: str,
) -> None:
    """The documents of some files as one file of pages, listed in `output` as `extract` does.

    The ledger says `extract`, whose place this takes for these files. Raises StageError where a file has no text.
    """
    book = Ledger("extract")
    found, failed = archives(files)
    for failure in failed:
        counts = {unit: failure[unit] for unit in ("documents", "bytes")}
        book.enter(**counts)
        book.fail(failure["reason"], **counts)
    name = Path(output).with_suffix(".arrow").name
    pages = Path(output).parent / "texts" / name
    model = None if language else load_model(language_id)
    rows = (page for file in found for page in _pages(options, file, text, url, language, model, book))
    write_arrow(pages, stamp(PAGE_SCHEMA, "text", options), rows)
    book.write(ledger)
    write_list(output, [str(pages)])


def _pages(
    options: Extract, file: Archive, text: str, url: str, language: str | None, model: Any, book: Ledger
) -> Iterator[dict[str, Any]]:
    for number, content, address in _rows(file.path, text, url, book):
        size = len(content.encode("utf-8", "replace")) if isinstance(content, str) else 0
        book.enter(documents=1, bytes=size)
        page = _page(options, content, language, model)
        if isinstance(page, str):
            (book.fail if page == "no_text" else book.drop)(page, documents=1, bytes=size)
            continue
        place = address if isinstance(address, str) and address else f"{file.source}#{number}"
        book.language(page["language"], documents=1)
        book.keep(documents=1, bytes=size)
        book.sample("kept", place, page["text"])
        yield page | {"url": place, "date": None, "warc": file.source, "offset": number, "record_id": ""}


def _page(options: Extract, content: Any, language: str | None, model: Any) -> dict[str, Any] | str:
    """The page, or the reason why there is none."""
    if not isinstance(content, str):
        return "no_text"
    content = "\n".join(clean_lines(content.encode("utf-8", "replace").decode()))
    if len(content) < options.min_chars:
        return "text_too_short"
    found, score = (language, 1.0) if language else identify(model, content, options.language_chars)
    if found not in options.languages:
        return "other_language"
    if score < options.language_min_score:
        return "uncertain_language"
    sha1 = hashlib.sha1(content.encode(), usedforsecurity=False).digest()
    digest = f"sha1:{base64.b32encode(sha1).decode()}"  # as WARCs have them
    return {"text": content, "language": found, "language_score": score, "charset": "utf-8", "digest": digest}


def _rows(path: str, text: str, url: str, book: Ledger) -> Iterator[Row]:
    if ".parquet" in Path(path).suffixes:
        yield from _parquet_rows(path, text, url, book)
    else:
        yield from _json_rows(path, text, url, book)


def _parquet_rows(path: str, text: str, url: str, book: Ledger) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text not in names:
                raise StageError(f"{path}: no column {text!r}; it has {', '.join(names)}: set crawl.texts.text")
            columns = [text, *([url] if url in names else [])]
            for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                rows = batch.to_pylist()
                for row in rows:
                    yield number, row[text], row.get(url)
                    number += 1
    except (pa.ArrowException, OSError):
        rest = max(1, (pq.read_metadata(path).num_rows if _is_parquet(path) else 1) - number)
        book.enter(documents=rest)
        book.fail("damaged_file", documents=rest)


def _is_parquet(path: str) -> bool:
    try:
        pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return False
    return True


def _json_rows(path: str, text: str, url: str, book: Ledger) -> Iterator[Row]:
    seen = 0
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_lines(path))
        for number in range(2**62):
            try:
                line = lines.readline(LINE_MAX)
            except (OSError, EOFError):  # what comes behind it is lost with it
                book.enter(documents=1)
                book.fail("truncated_file", documents=1)
                break
            if not line:
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                book.enter(documents=1, bytes=len(line))
                book.fail("bad_json", documents=1, bytes=len(line))
                continue
            seen += text in row
            yield number, row.get(text), row.get(url)
    if not seen and number:
        raise StageError(f"{path}: no line has a key {text!r}; set crawl.texts.text")


def _lines(path: str) -> Any:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix)
    source = pa.OSFile(path, "rb")
    return io.BufferedReader(pa.CompressedInputStream(source, kind) if kind else source)
