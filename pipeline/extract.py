"""WARC files to pages: the main text of each HTML page in a wanted language.

Source: paper, section 4.1 (text with resiliparse, then language identification with fastText).
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.engine import map_items
from pipeline.files import copy_arrow, stamp, write_arrow
from pipeline.fingerprint import fingerprint
from pipeline.html import charset_of, decode, is_html, paragraphs
from pipeline.ledger import Ledger, merge_files
from pipeline.options import Extract
from pipeline.warc import Damage, Response, responses

PAGE_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("url", pa.string()),
        ("date", pa.timestamp("s", "UTC")),
        ("language", pa.string()),
        ("language_score", pa.float32()),
        ("charset", pa.string()),
        ("warc", pa.string()),
        ("offset", pa.int64()),
        ("record_id", pa.string()),
        ("digest", pa.string()),
    ]
)


def extract(
    options: Extract,
    warcs: list[str],
    language_id: str,
    output: str,
    ledger: str,
    workers: int,
    scheduler: str | None,
) -> None:
    """Extract WARC files into one file of pages, in the order of the files and their records.

    Each WARC becomes a part first, so that a run that is killed goes on with the WARCs that are left.
    """
    parts = Path(output + ".parts")
    schema = stamp(PAGE_SCHEMA, "extract", options)
    code = fingerprint("pipeline.extract")
    jobs = [
        (
            options,
            warc,
            language_id,
            str(parts / f"{i:05d}.arrow"),
            f"{code} {warc} {Path(warc).stat().st_size}",
        )
        for i, warc in enumerate(warcs)
    ]
    map_items(_extract_one, jobs, workers, scheduler, "extract", "WARCs")
    total = merge_files("extract", [job[3] + ".ledger.json" for job in jobs])
    copy_arrow(output, schema, [job[3] for job in jobs])
    total.write(ledger)
    shutil.rmtree(parts)


def _extract_one(job: tuple[Extract, str, str, str, str]) -> None:
    """One WARC to one part; does nothing where the part is there from the same code, options and file."""
    options, warc, language_id, output, key = job
    schema = stamp(PAGE_SCHEMA, "extract", options)
    schema = schema.with_metadata(schema.metadata | {b"key": key.encode()})
    if Path(output).exists() and _same_part(output, schema):
        return
    ledger = Ledger("extract")
    pages = _pages(options, warc, _language_model(language_id), ledger)
    # The ledger is complete only at the last page, and a part that is there must have its ledger.
    write_arrow(output, schema, pages, before_rename=lambda: ledger.write(output + ".ledger.json"))


def _same_part(path: str, schema: pa.Schema) -> bool:
    with pa.OSFile(path, "rb") as source, pa.ipc.open_stream(source) as reader:
        return bool(reader.schema.metadata == schema.metadata)


@functools.cache
def _language_model(path: str) -> Any:
    import fasttext

    return fasttext.load_model(path)


def _pages(options: Extract, warc: str, model: Any, ledger: Ledger) -> Iterator[dict[str, Any]]:
    name = Path(warc).name
    for record in responses(warc):
        if isinstance(record, Damage):
            ledger.enter(documents=1, bytes=record.length)
            ledger.fail(record.reason, documents=1, bytes=record.length)
            continue
        size = len(record.body)
        ledger.enter(documents=1, bytes=size)
        page = _page(options, record, model, ledger)
        if isinstance(page, str):
            ledger.drop(page, documents=1, bytes=size)
            continue
        ledger.keep(documents=1, bytes=size)
        ledger.sample("kept", record.url, page["text"])
        yield page | {"warc": name}


def _page(options: Extract, record: Response, model: Any, ledger: Ledger) -> dict[str, Any] | str:
    """The page, or the reason why it is dropped."""
    if record.status != 200:
        return "http_status"
    if not is_html(record.content_type, record.body):
        return "not_html"
    if len(record.body) > options.max_html_bytes:
        return "html_too_long"
    codec, decided_by = charset_of(record.body, record.charset)
    html = decode(record.body, codec)
    if html is None:
        return "undecodable"
    text = "\n".join(paragraphs(html))
    if len(text) < options.min_chars:
        ledger.sample("text_too_short", record.url, text)
        return "text_too_short"
    language, score = identify(model, text[: options.language_chars])
    ledger.language(language, documents=1, bytes=len(text.encode()))
    if language not in options.languages:
        ledger.sample("other_language", record.url, text)
        return "other_language"
    if score < options.language_min_score:
        ledger.sample("uncertain_language", record.url, text)
        return "uncertain_language"
    return {
        "text": text,
        "url": record.url,
        "date": _date(record.date),
        "language": language,
        "language_score": score,
        "charset": f"{codec} ({decided_by})",
        "offset": record.offset,
        "record_id": record.record_id,
        "digest": record.digest,
    }


def identify(model: Any, text: str) -> tuple[str, float]:
    """The most probable language of a text and its probability, at most 1."""
    labels, scores = model.predict(text.replace("\n", " "))
    if not labels:
        return "unknown", 0.0
    return labels[0].removeprefix("__label__"), min(1.0, float(scores[0]))


def _date(value: str) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
