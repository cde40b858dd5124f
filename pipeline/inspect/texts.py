"""The texts of drawn pages: from the file that the stage read, or from the archive, at the record's offset."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.common.decisions import KEPT, url_hash
from pipeline.common.schemas import some_columns
from pipeline.crawl.origins import LIST, input_files
from pipeline.extract.charset import charset_of
from pipeline.extract.media_type import is_html
from pipeline.extract.pages import fit_text
from pipeline.extract.sandbox import Extractor
from pipeline.inspect.fates import Crawl, read_rows
from pipeline.inspect.paragraphs import dropped_paragraphs
from pipeline.inspect.samples import Drawn
from pipeline.inspect.why import shard_of
from pipeline.warc.content import Response
from pipeline.warc.reader import responses

PAGE_SECONDS = 10  # of processor time, for the text of a page of an archive
RAW_BYTES = 4000  # that are shown of a page without text


class Text(NamedTuple):
    """The URL and the text of a page, "" where they are not to be had, and what the text is."""

    url: str
    text: str
    what: str


def texts_of(crawl: Crawl, drawn: list[Drawn], warcs: list[str]) -> Iterator[tuple[Drawn, Text]]:
    """The text of each drawn page, in their order. `warcs`: where to look for archives beside their own paths."""
    rows: dict[str, set[int]] = defaultdict(set)
    places = {one: _place(crawl, one) for one in drawn}
    for file, row in filter(None, places.values()):
        rows[file].add(row)
    found = {file: read_rows(file, some_columns("text", "url"), wanted) for file, wanted in rows.items()}
    archives = _archives(crawl, warcs)
    with contextlib.ExitStack() as stack:
        extractor = Extractor(PAGE_SECONDS)
        stack.callback(extractor.stop)
        for one in drawn:
            if place := places[one]:
                file, row = place
                if text := found[file].get(row):
                    yield one, _document(crawl, one, text)
                else:
                    yield one, Text("", "", f"{file} is gone")
            else:
                yield one, _archived(crawl, one, archives, extractor)


def _place(crawl: Crawl, drawn: Drawn) -> tuple[str, int] | None:
    """The file and the row with the text; None: an archive has it."""
    kind, batch = drawn.kind, drawn.page.batch
    if kind.stage == "quality" and kind.fate == KEPT:
        quality = crawl.batch(batch).stages["quality"]
        row = quality.rows(drawn.number)[0]
        return str(shard_of(crawl, quality, row)), int(quality.columns["place"][row])
    return None if kind.stage == "extract" else (crawl.documents_into(kind.stage, batch), drawn.number)


def _document(crawl: Crawl, drawn: Drawn, row: dict[str, str]) -> Text:
    if not drawn.kind.is_part:
        return Text(row["url"], row["text"], "text")
    dedup = crawl.batch(drawn.page.batch).stages["dedup"]
    dropped = dropped_paragraphs(crawl, drawn.page.batch, dedup, drawn.number)
    if isinstance(dropped, str):
        return Text(row["url"], "", f"{dropped} is gone")
    return Text(row["url"], "\n".join(x.text for x in dropped if x.reason == drawn.kind.reason), "paragraphs")


def _archives(crawl: Crawl, warcs: list[str]) -> dict[str, str]:
    """The paths of archives by what the decisions call them: those given, and those in the folder of results."""
    folders = [path.parent for pattern in ("fetched/*", "records/*") for path in _lists(crawl, pattern)]
    files = [*input_files([*map(str, folders), *warcs])[0]]
    return {file.named: file.path for file in files} | {Path(file.path).name: file.path for file in files}


def _lists(crawl: Crawl, pattern: str) -> list[Path]:
    return crawl.out.files(f"{crawl.out.root}/{pattern}/{LIST}")


def _archived(crawl: Crawl, drawn: Drawn, archives: dict[str, str], extractor: Extractor) -> Text:
    """The main text of a page of an archive, or a piece of its bytes."""
    extract = crawl.batch(drawn.page.batch).stages["extract"]
    row = extract.rows(drawn.page.number)[0]
    named, wanted = extract.word("file", row), int(extract.columns["url"][row])
    own = Path(crawl.out.root, "crawl", Path(named).name)
    paths = [named, archives.get(named), archives.get(Path(named).name), str(own)]
    path = next((path for path in paths if path and Path(path).is_file()), None)
    if path is None or not wanted:
        return Text("", "", "damage, not a page" if not wanted else f"{named} is not here; name it in --warcs")
    record = record_at(path, int(extract.columns["place"][row]), wanted)
    if record is None:
        return Text("", "", f"not found again in {path}")
    codec = charset_of(record.body, record.charset)[0]
    if is_html(record.content_type, record.body) and (text := extractor.extract(record.body, codec).text):
        return Text(record.url, text, "main text")
    piece = record.body[:RAW_BYTES]
    if b"\0" in piece:
        return Text(
            record.url, "", f"{record.content_type or 'no type'}, {len(record.body):,} bytes that are no text"
        )
    return Text(record.url, piece.decode(codec, "replace"), "as in the archive")


def record_at(path: str, offset: int, wanted: int) -> Response | None:
    """The record of an archive at an offset, as `extract` notes it, whose URL has this hash."""
    for record in responses(path, offset):
        if not isinstance(record, Response) or record.offset != offset:
            return None
        if url_hash(fit_text(record.url)) == wanted:
            return record
    return None
