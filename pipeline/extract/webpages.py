"""WARC files to pages: the main text of each HTML page in a wanted language.

Source: paper, section 4.1 (text with resiliparse, then language identification with fastText).

A job reads a batch of WARCs, which are local files or those in a folder that `fetch` filled. Each WARC gives one
file of pages, which is kept: a batch to which WARCs were added extracts only the new ones. The output of the
batch is a list of its files of pages.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from pipeline.common.arrow import read_schema
from pipeline.common.decisions import read_decisions
from pipeline.common.engine import map_items
from pipeline.common.files import read_json, stamp, write_arrow, write_list
from pipeline.common.ledger import Ledger
from pipeline.common.locks import clear
from pipeline.common.schemas import DECISION_SCHEMA, PAGE_SCHEMA
from pipeline.crawl.origins import InputFile, failure_row, input_files, read_origins
from pipeline.extract.cascade import guess
from pipeline.extract.charset import charset_column, charset_of, text_charset
from pipeline.extract.language import Wanted, check_languages, identify, load_model, wanted_languages
from pipeline.extract.main_text import plain_text
from pipeline.extract.media_type import is_html, is_plain_text
from pipeline.extract.options import Extract
from pipeline.extract.pages import UNFIT, fit_page, fit_text
from pipeline.extract.sandbox import FAILURES, Extraction, Extractor
from pipeline.warc.content import Response
from pipeline.warc.reader import Damage, responses
from pipeline.workflow.fingerprint import fingerprint


def extract(
    options: Extract,
    warcs: list[str],
    language_id: str,
    output: str,
    ledger: str,
    workers: int,
    scheduler: str | None,
    decisions: str | None = None,
) -> None:
    """Extract each WARC file into a file of pages, and list these in order in `output`.

    The files of pages lie in `warcs/` beside the list. One that is there already, from the same code, options and
    WARC, is used as it is, so that a killed run continues with the WARCs that are left.
    """
    check_languages(options.languages, language_id)
    folder = Path(output).parent / "warcs"
    code = fingerprint("pipeline.extract.webpages:extract")
    archives, not_fetched = input_files(warcs)
    extract_one = functools.partial(_extract_archive, options, language_id, folder, code)
    map_items(extract_one, archives, workers, scheduler, "extract", "WARCs")
    pages = [pages_path(folder, archive) for archive in archives]
    book = Ledger("extract", options)
    for path in pages:
        book.include(read_json(_ledger_path(path)), read_decisions(_decisions_path(path), DECISION_SCHEMA))
    for failure in not_fetched:
        book.fail_unread(**failure_row(failure))
    book.write(ledger, decisions)
    write_list(output, map(str, pages))


def pages_path(folder: Path, archive: InputFile) -> Path:
    """The file of an archive's pages."""
    return folder / f"{archive.unique_name}.arrow"


def _ledger_path(pages: Path) -> Path:
    return pages.with_suffix(".ledger.json")


def _decisions_path(pages: Path) -> Path:
    return pages.with_suffix(".decisions")


def _extract_archive(options: Extract, language_id: str, folder: Path, code: str, archive: InputFile) -> None:
    """Write the file of an archive's pages and its ledger, unless they are there from the same code and input."""
    output = pages_path(folder, archive)
    size, digest = _size_and_digest(archive.path)
    key = f"{code} {options} {_size_and_digest(language_id)} {Path(archive.path).name} {size} {digest}"
    if output.exists() and (read_schema(output).metadata or {}).get(b"key") == key.encode():
        clear(output)
        return
    ledger = Ledger("extract", options)
    extractor = _extractor(options.page_seconds, threading.get_ident())
    pages = _pages(options, archive, load_model(language_id), extractor, ledger)
    schema = stamp(PAGE_SCHEMA, "extract", options)
    schema = schema.with_metadata(schema.metadata | {b"key": key.encode(), b"archive_bytes": b"%d" % size})
    # The ledger is complete only after the last page, and must be there before the file of pages is.
    books = _ledger_path(output), _decisions_path(output)
    write_arrow(output, schema, pages, before_rename=lambda: ledger.write(*books))


@functools.cache
def _extractor(page_seconds: int, thread: int) -> Extractor:
    """The extractor of a thread, for all its WARCs.

    It takes one page at a time, and a dask worker may have several threads.
    """
    return Extractor(page_seconds)


def _size_and_digest(path: str) -> tuple[int, str]:
    """Bytes of a file, and a hash of its beginning and end, by which a changed file is noticed."""
    with open(path, "rb") as file:  # noqa: PTH123
        size = file.seek(0, 2)
        digest = xxhash.xxh3_64()
        for place in (0, max(0, size - 2**16)):
            file.seek(place)
            digest.update(file.read(2**16))
    return size, digest.hexdigest()


def _pages(
    options: Extract, archive: InputFile, model: Any, extractor: Extractor, ledger: Ledger
) -> Iterator[dict[str, Any]]:
    origins = read_origins(archive.origins) if archive.origins else {}
    wanted = wanted_languages(model, options.languages, options.language_groups)
    for record in responses(archive.path):
        place = {"file": archive.named, "place": record.offset}
        if isinstance(record, Damage):
            ledger.fail_unread(record.reason, documents=record.records, bytes=record.length, **place)
            continue
        size = len(record.body)
        ledger.enter(documents=1, bytes=size)
        found = _found(options, wanted, record, model, extractor)
        row = {"documents": 1, "bytes": size, "url": fit_text(record.url), **place}
        if found.language is not None:
            ledger.language(found.language, documents=1)
            row |= {"language": found.language, "score": found.score}
        page: dict[str, Any] | str = found.reason or _page(record, found)
        if not isinstance(page, str):
            warc, offset = origins.get(record.offset, (archive.source, record.offset))
            page = fit_page(page | {"warc": warc, "offset": offset})
        if isinstance(page, str):
            if found.reason and found.text is not None:
                ledger.sample(page, record.url, found.text)
            note = ledger.fail if page in (*FAILURES, *UNFIT, record.problem) else ledger.drop
            note(page, **row)
            continue
        ledger.keep(**row)
        ledger.sample("kept", page["url"], page["text"])
        yield page


class Found(NamedTuple):
    """What is known of a page: the reason why it is none, or "", and its text, language and the score of that."""

    reason: str
    text: str | None = None
    language: str | None = None
    score: float | None = None
    charset: str = ""


def _found(options: Extract, wanted: Wanted, record: Response, model: Any, extractor: Extractor) -> Found:
    """The text of a page and its language, as far as these are needed to keep or drop it."""
    if reason := record.problem or record.left_out:
        return Found(reason)
    if record.status != 200:
        return Found("http_status")
    if len(record.body) > options.max_html_bytes:
        return Found("html_too_long")
    if not is_html(record.content_type, record.body):
        if record.kind != "conversion" or not is_plain_text(record.content_type, record.body):
            return Found("not_html")
        # The text of a page as the crawl gives it, as in WET files.
        codec, decided_by = text_charset(record.body, record.charset), "WET"
        extraction = Extraction(plain_text(record.body, codec))
    else:
        codec, decided_by = charset_of(record.body, record.charset)
        if options.cascade:
            language = guess(model, record.body, codec, wanted, options.cascade_min_score)
            if language is not None:
                return Found("unlikely_language", language=language)
        extraction = extractor.extract(record.body, codec)
    if extraction.failure:
        return Found(extraction.failure)
    text = extraction.text
    if len(text) < options.min_chars:
        return Found("text_too_short", text)
    language, score = identify(model, text, options.language_chars, wanted.groups)
    if language not in options.languages:
        return Found("other_language", text, language, score)
    if score < options.language_min_score:
        return Found("uncertain_language", text, language, score)
    return Found("", text, language, score, charset_column(codec, decided_by))


def _page(record: Response, found: Found) -> dict[str, Any]:
    """A row of PAGE_SCHEMA, but for where the record comes from."""
    return {
        "text": found.text,
        "url": record.url,
        "date": record.date,
        "language": found.language,
        "language_score": found.score,
        "charset": found.charset,
        "record_id": record.record_id,
        "digest": record.digest,
    }
