"""Plain text to pages: Parquet and JSON lines, such as a dump of Wikipedia, beside what is extracted from HTML.

The pages go through deduplication and all later stages like those of a crawl. Their `warc` is the file, their
`offset` the number of the row or line.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common.errors import StageError
from pipeline.common.files import stamp, write_arrow, write_list
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.crawl.origins import InputFile, input_files
from pipeline.extract.html import clean_lines
from pipeline.extract.language import identify, load_model
from pipeline.extract.options import Extract

ROWS, LINE_MAX = 256, 2**26  # rows read at a time; bytes of a line


@dataclass(frozen=True)
class TextRow:
    """A row of a file, numbered from 0, and what its columns of text and URL hold: any type, or None."""

    number: int
    text: Any
    url: Any


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
    """Write the texts in some files as one file of pages, listed in `output` as `extract` does.

    `text` and `url` are the names of columns or keys; `language` is that of all texts, or None: it is identified.
    The ledger has the name `extract`, since this stage stands in its place. Raises StageError where a file has no
    such column or key for the text.
    """
    book = Ledger("extract")
    inputs, not_fetched = input_files(files)
    for failure in not_fetched:
        book.fail_unread(failure["reason"], documents=failure["documents"], bytes=failure["bytes"])
    name = Path(output).with_suffix(".arrow").name
    pages = Path(output).parent / "texts" / name
    model = None if language else load_model(language_id)
    rows = (page for file in inputs for page in _pages(options, file, text, url, language, model, book))
    write_arrow(pages, stamp(PAGE_SCHEMA, "text", options), rows)
    book.write(ledger)
    write_list(output, [str(pages)])


def _pages(
    options: Extract, file: InputFile, text: str, url: str, language: str | None, model: Any, book: Ledger
) -> Iterator[dict[str, Any]]:
    for row in _rows(file.path, text, url, book):
        size = len(row.text.encode("utf-8", "replace")) if isinstance(row.text, str) else 0
        book.enter(documents=1, bytes=size)
        page = _page(options, row.text, language, model)
        if isinstance(page, str):
            (book.fail if page == "no_text" else book.drop)(page, documents=1, bytes=size)
            continue
        address = row.url if isinstance(row.url, str) and row.url else f"{file.source}#{row.number}"
        book.language(page["language"], documents=1)
        book.keep(documents=1, bytes=size)
        book.sample("kept", address, page["text"])
        yield page | {"url": address, "date": None, "warc": file.source, "offset": row.number, "record_id": ""}


def _page(options: Extract, content: Any, language: str | None, model: Any) -> dict[str, Any] | str:
    """The page, or the reason why there is none."""
    if not isinstance(content, str):
        return "no_text"
    content = "\n".join(clean_lines(content.encode("utf-8", "replace").decode()))
    if len(content) < options.min_chars:
        return "text_too_short"
    label, score = (language, 1.0) if language else identify(model, content, options.language_chars)
    if label not in options.languages:
        return "other_language"
    if score < options.language_min_score:
        return "uncertain_language"
    sha1 = hashlib.sha1(content.encode(), usedforsecurity=False).digest()
    digest = f"sha1:{base64.b32encode(sha1).decode()}"  # as WARCs have them
    return {"text": content, "language": label, "language_score": score, "charset": "utf-8", "digest": digest}


def _rows(path: str, text: str, url: str, book: Ledger) -> Iterator[TextRow]:
    if ".parquet" in Path(path).suffixes:
        yield from _parquet_rows(path, text, url, book)
    else:
        yield from _json_rows(path, text, url, book)


def _parquet_rows(path: str, text: str, url: str, book: Ledger) -> Iterator[TextRow]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text not in names:
                raise StageError(f"{path}: no column {text!r}; it has {', '.join(names)}: set crawl.texts.text")
            columns = [text, *([url] if url in names else [])]
            for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield TextRow(number, row[text], row.get(url))
                    number += 1
    except (pa.ArrowException, OSError):
        rest = max(1, (pq.read_metadata(path).num_rows if _is_parquet(path) else 1) - number)
        book.fail_unread("damaged_file", documents=rest)


def _is_parquet(path: str) -> bool:
    try:
        pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return False
    return True


def _json_rows(path: str, text: str, url: str, book: Ledger) -> Iterator[TextRow]:
    with_text = 0
    with _lines(path) as lines:
        for number in itertools.count():
            try:
                line = lines.readline(LINE_MAX)
            except (OSError, EOFError):  # all that follows is lost too
                book.fail_unread("truncated_file", documents=1)
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
                book.fail_unread("bad_json", documents=1, bytes=len(line))
                continue
            with_text += text in row
            yield TextRow(number, row.get(text), row.get(url))
    if not with_text and number:
        raise StageError(f"{path}: no line has a key {text!r}; set crawl.texts.text")


def _lines(path: str) -> Any:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix)
    source = pa.OSFile(path, "rb")
    return io.BufferedReader(pa.CompressedInputStream(source, kind) if kind else source)
