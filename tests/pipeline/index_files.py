"""A small crawl as CommonCrawl publishes it, made by code: WARCs, path lists, and the columnar index of them."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import page, prose, write_warc
from fastwarc.warc import ArchiveIterator, WarcRecordType

CRAWL = "CC-MAIN-2026-30"
LANGUAGES = {"fr": "fra", "en": "eng"}
# Names and types of cc-index-schema-flat.json, as far as crawls have them in every row.
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("url_surtkey", "url", "url_host_name", "url_host_tld")),
        *((name, pa.string()) for name in ("url_host_registered_domain", "url_protocol", "url_path", "url_query")),
        ("fetch_time", pa.timestamp("ms")),
        ("fetch_status", pa.int16()),
        ("content_digest", pa.string()),
        *((name, pa.string()) for name in ("content_mime_type", "content_mime_detected", "content_charset")),
        *((name, pa.string()) for name in ("content_languages", "content_truncated", "warc_filename")),
        ("warc_record_offset", pa.int32()),
        ("warc_record_length", pa.int32()),
        ("warc_segment", pa.string()),
    ]
)


def make_crawl(folder: Path, warcs: int = 4, pages: int = 40, french: int = 5) -> dict[str, bytes]:
    """Files of a crawl by their paths on the server; every `french`-th page is French, and on a host of .fr."""
    files: dict[str, bytes] = {}
    rows = []
    for number in range(warcs):
        path = f"crawl-data/{CRAWL}/segments/17{number % 2}.5/warc/CC-MAIN-x-{number:05d}.warc.gz"
        records = []
        for i in range(number * pages, (number + 1) * pages):
            language = "fr" if i % french == 0 else "en"
            url = f"https://www.site{i % 7}.{'fr' if language == 'fr' else 'com'}/{i}"
            records.append((url, page(prose(language, i)), "text/html; charset=utf-8"))
        body = write_warc(folder / path, records).read_bytes()
        files[f"/{path}"] = body
        rows += index_rows(path, body)
    rows.sort(key=lambda row: row["url_surtkey"])
    half = len(rows) // 2
    tables = []
    for part, some in enumerate((rows[:half], rows[half:])):
        name = f"cc-index/table/cc-main/warc/crawl={CRAWL}/subset=warc/part-{part:05d}.c000.gz.parquet"
        files[f"/{name}"] = parquet(some)
        tables.append(name)
    others = f"cc-index/table/cc-main/warc/crawl={CRAWL}/subset=robotstxt/part-00000.c000.gz.parquet"
    base = f"/crawl-data/{CRAWL}"
    files[f"{base}/warc.paths.gz"] = paths_gz([name[1:] for name in files if name.endswith(".warc.gz")])
    files[f"{base}/cc-index-table.paths.gz"] = paths_gz([others, *tables])
    return files


def paths_gz(paths: list[str]) -> bytes:
    return gzip.compress("".join(f"{path}\n" for path in paths).encode())


def parquet(rows: list[dict], schema: pa.Schema = SCHEMA, row_group_size: int = 16) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, row_group_size=row_group_size, compression="gzip")
    return sink.getvalue()


def index_rows(path: str, body: bytes) -> list[dict]:
    """The rows of the index of one WARC with a record in each gzip member: its responses."""
    records = [
        (record.stream_pos, record.record_type == WarcRecordType.response, dict(record.headers))
        for record in ArchiveIterator(io.BytesIO(body), parse_http=False)
    ]
    ends = [start for start, _, _ in records[1:]] + [len(body)]
    rows = []
    for (start, is_response, headers), end in zip(records, ends, strict=True):
        if not is_response:
            continue
        url, digest = headers["WARC-Target-URI"], headers["WARC-Payload-Digest"]
        host = urlsplit(url).hostname or ""
        tld = host.rsplit(".", 1)[1]
        rows.append(
            {
                "url_surtkey": ",".join(reversed(host.removeprefix("www.").split("."))) + ")" + urlsplit(url).path,
                "url": url,
                "url_host_name": host,
                "url_host_tld": tld,
                "url_host_registered_domain": host.removeprefix("www."),
                "fetch_status": 200,
                "content_digest": digest.removeprefix("sha1:"),
                "content_mime_type": "text/html",
                "content_mime_detected": "text/html",
                "content_charset": "UTF-8",
                "content_languages": "fra,eng"
                if tld == "fr" and start % 2
                else "fra"
                if tld == "fr"
                else "eng,fra",
                "warc_filename": path,
                "warc_record_offset": start,
                "warc_record_length": end - start,
                "warc_segment": path.split("/")[3],
            }
        )
    return rows
