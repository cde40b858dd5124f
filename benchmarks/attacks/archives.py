"""Attacks by archives, the pages in them, and plain text."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import ROOT, Outcome, stage

SENTENCE = "le chat dort sur la chaise et la petite fille regarde une maison dans la rue avec son ami"
PHRASE = "Une phrase. "
ROWS_OF_BOMBS = 256  # as many as the first version read at a time


# Fields of a page ---------------------------------------------------------------------------------


def lone_surrogate_in_json(folder: Path) -> Outcome:
    """A lone surrogate in the URL of a JSON line."""
    _write_lines(
        folder / "in.jsonl", [{"text": PHRASE * 30, "url": "https://a.example/\ud800"}, {"text": PHRASE * 31}]
    )
    return _texts_kept("in.jsonl", 1, 2)


def dates_beyond_python(folder: Path) -> Outcome:
    """Dates of the years 1 and 9999 in other time zones, through all stages up to the shards."""
    dates = ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "2026-01-01T00:00:00Z")
    records = [_record(_http(_page(i)), url=f"https://a.example/{i}", date=date) for i, date in enumerate(dates)]
    Path("in.warc.gz").write_bytes(b"".join(map(_gzip, records)))
    for arguments in (
        ("extract", "--warcs", "in.warc.gz", "--language-id", _language_model(), "--languages", "fr",
         "--language-min-score", "0", "--output", "pages.json", "--ledger", "pages.ledger.json"),
        ("dedup-hash", "--pages", "pages.json", "--output", "h.arrow"),
        ("dedup-reduce", "--hashes", "h.arrow", "--output", "verdicts", "--index", "index.arrow"),
        ("dedup-apply", "--pages", "pages.json", "--duplicates", "verdicts/h.arrow", "--output", "d.arrow",
         "--ledger", "d.ledger.json", "--min-chars", "1"),
        ("shards", "--documents", "d.arrow", "--languages", "fr", "--name", "00000", "--output", "corpus",
         "--ledger", "s.ledger.json"),
    ):  # fmt: skip
        if (done := stage("pipeline", *arguments)).returncode:
            return False, f"{arguments[0]}: {_last_line(done.stderr)}"[:60]
    kept = json.loads(Path("s.ledger.json").read_text())["kept"]["documents"]
    return kept == len(dates), f"{kept} of {len(dates)} documents in the shards"


def urls_of_60_mb(folder: Path) -> Outcome:
    """A URL of 60 MB in each of 36 JSON lines, 2 MB compressed: more than a batch of Arrow holds."""
    hostile = ({"text": f"{i} {PHRASE * 30}", "url": "https://a.example/" + "x" * 60_000_000} for i in range(36))
    _write_lines(folder / "in.jsonl.gz", itertools.chain([{"text": PHRASE * 30}], hostile))
    return _texts_kept("in.jsonl.gz", 1, 37)


def bad_utf8_in_parquet(folder: Path) -> Outcome:
    """A row of a Parquet file that is no UTF-8."""
    import pyarrow as pa

    values = pa.array([PHRASE.encode() * 30, b"\xff" * 300, PHRASE.encode() * 31])
    _parquet(folder / "in.parquet", pa.Array.from_buffers(pa.string(), 3, values.buffers()))
    return _texts_kept("in.parquet", 2, 3)


# Small files, much memory -------------------------------------------------------------------------


def parquet_of_long_rows(folder: Path) -> Outcome:
    """3 kB of Parquet whose rows are one text of 16 MB, 256 times."""
    _repeated_parquet(folder / "in.parquet", PHRASE * 1_400_000, ROWS_OF_BOMBS)
    return _texts_are_bounded("in.parquet")


def parquet_of_many_rows(folder: Path) -> Outcome:
    """1 kB of Parquet that unpacks to 5 GB of texts of 9 MB."""
    _repeated_parquet(folder / "in.parquet", (PHRASE * 10**6)[:9_000_000], 550)
    return _texts_are_bounded("in.parquet")


def json_of_brackets(folder: Path) -> Outcome:
    """A JSON line of 60 MB, 60 kB compressed, that is a list of 20 million lists."""
    with gzip.open("in.jsonl.gz", "wb", 6) as file:
        file.write(b'{"text": [' + b"{}," * 20_000_000 + b"1]}\n" + json.dumps({"text": PHRASE * 30}).encode())
    return _texts_are_bounded("in.jsonl.gz", most_mb=700)


def line_without_an_end(folder: Path) -> Outcome:
    """A JSON line of 1 GB, 30 kB compressed, before good ones."""
    import pyarrow as pa

    with pa.CompressedOutputStream("in.jsonl.zst", "zstd") as file:
        for _ in range(1000):
            file.write(b'"' * 10**6)
        file.write(b"\n" + json.dumps({"text": PHRASE * 30}).encode() + b"\n")
    done, ledger = _texts("in.jsonl.zst")
    entered = ledger.get("in", {}).get("documents", 0)
    kept = ledger.get("kept", {}).get("documents", 0)
    return kept == 1 and entered == 2, f"status {done}, {kept} of {entered} lines kept, of 2"


def helper_says_4_gib(folder: Path) -> Outcome:
    """The extraction helper, taken over by a page, says that its answer has 4 GiB, and sends none."""
    from pipeline.extract import sandbox

    answer = (
        "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'\\1' + b'\\xff' * 4)"
    )
    sandbox.COMMAND = [sys.executable, "-c", f"{answer}; time.sleep(100)"]
    begin = time.perf_counter()
    extraction = sandbox.Extractor(page_seconds=2).extract(b"<p>a page", "utf-8")
    seconds = time.perf_counter() - begin
    return seconds < 10, f"{extraction.failure} after {seconds:.1f} s"


# Unbounded work -----------------------------------------------------------------------------------


def many_encodings(folder: Path) -> Outcome:
    """A record with 5,000 content encodings."""
    from pipeline.warc.encodings import undo

    _, problem = undo(b"a text that is not encoded", ["gzip, br"] * 2500)
    return problem == "too_many_encodings", problem or "all were tried"


def bodies_of_64_mb(folder: Path) -> Outcome:
    """160 records of 300 bytes whose bodies unpack to 64 MB."""
    packed = _zlib(bytes(63 * 2**20))
    body = _http(_zlib(packed), "Content-Encoding: deflate, deflate")
    return _reads(folder / "in.warc.gz", _gzip(_record(body)) * 160)


def records_of_60_mb(folder: Path) -> Outcome:
    """200 records of 2 kB, with zstd, that unpack to 60 MB."""
    import pyarrow as pa

    record = _record(_http(bytes(60_000_000)))
    with pa.CompressedOutputStream("in", "zstd") as file:
        file.write(record)
    return _reads(folder / "in.warc.zst", Path("in").read_bytes() * 200)


def headers_of_a_mebibyte(folder: Path) -> Outcome:
    """300 records of 1 kB, whose HTTP headers are 1 MiB of fields or of spaces."""
    fillers = (b"a:\n", b" ", b"\n a")
    headers = [b"HTTP/1.1 200 OK\nX: y%b\n\n" % (filler * (1_000_000 // len(filler))) for filler in fillers]
    return _reads(folder / "in.warc.gz", b"".join(_gzip(_record(header)) for header in headers) * 100)


def layers_of_60_mb(folder: Path) -> Outcome:
    """12 records whose bodies unpack to 60 MB in each of four layers."""
    layer = bytes(60 * 2**20)
    for _ in range(4):
        packed = gzip.compress(layer, 1)
        layer = packed + bytes(60 * 2**20 - len(packed))  # what follows a gzip member is ignored
    body = _http(layer, "Content-Encoding: gzip, gzip, gzip, gzip")
    return _reads(folder / "in.warc.gz", _gzip(_record(body)) * 12)


def chunks_of_one_byte(folder: Path) -> Outcome:
    """Twelve records whose bodies are 900,000 chunks, of 7 kB each in the file."""
    body = _http(b"1\r\na\r\n" * 900_000, "Transfer-Encoding: chunked")
    return _reads(folder / "in.warc.gz", _gzip(_record(body)) * 12)


def gzip_members_of_nothing(folder: Path) -> Outcome:
    """400 records whose bodies are 9,900 empty gzip members, of 700 bytes each in the file."""
    body = _http(_gzip(b"") * 9900, "Content-Encoding: gzip")
    return _reads(folder / "in.warc.gz", _gzip(_record(body)) * 400)


def false_lengths(folder: Path) -> Outcome:
    """36 kB that unpack to 10 MB of records, each behind one that says it has 90 MB."""
    data = (b"WARC/1.0\r\nContent-Length: 90000000\r\n\r\n" + _record(_http(b"<p>hi"))) * 30_000
    return _reads(folder / "in.warc.gz", _gzip(data))


def false_starts(folder: Path) -> Outcome:
    """1.9 MB that unpack to 300 MB of beginnings of records."""
    return _reads(folder / "in.warc.gz", _gzip(b"WARC/1.0\r\nContent-Length: 60000000\r\n\r\n" * 8_000_000, 1))


def newlines_between_records(folder: Path) -> Outcome:
    """1 GB of newlines between two records, 1 MB in the file, which FastWARC skips one by one."""
    record = _gzip(_record(_http(b"<p>hi")))
    return _reads(folder / "in.warc.gz", record + _gzip(b"\n" * 2**26, 6) * 16 + record)


def blocks_of_nothing(folder: Path) -> Outcome:
    """300 zstd frames in 1 MB that have the same 333,000 empty blocks and no end."""
    magic = b"\x28\xb5\x2f\xfd\x00\x58"
    data = (magic + b"\x30\x00\x00") * 300 + magic + b"\x00" * 999_000 + b"\x06\x00\x00"
    return _reads(folder / "in.warc.zst", data)


def dictionary_of_64_mb(folder: Path) -> Outcome:
    """A dictionary of 64 MB, loaded anew for each of 700 zstd frames of 180 bytes."""
    import pyarrow as pa

    def pack(data: bytes) -> bytes:
        with pa.CompressedOutputStream("in", "zstd") as file:
            file.write(data)
        return Path("in").read_bytes()

    words = pack(bytes(range(256)) * 2**18)
    head = struct.pack("<II", 0x184D2A5D, len(words)) + words
    return _reads(folder / "in.warc.zst", head + pack(_record(_http(b"<p>hi"))) * 700)


def spaces_in_meta(folder: Path) -> Outcome:
    """100 pages of 1 kB whose <meta> makes a regular expression go back and forth."""
    from pipeline.extract.charset import charset_of

    begin = time.perf_counter()
    for _ in range(100):
        charset_of(b"<meta" * 40 + b"charset=" + b" " * 800, None)
    seconds = time.perf_counter() - begin
    return seconds < 5, f"{1000 * seconds / 100:.2f} ms a page"


# Makers and measures ------------------------------------------------------------------------------


def _page(number: int) -> bytes:
    """A page of French that no other number has."""
    words = SENTENCE.split()
    lines = [" ".join(words[(number * 7 + p * 3 + i * (p + 1)) % len(words)] for i in range(24)) for p in range(4)]
    return (
        f"<html><body><main>{''.join(f'<p>{line} {number}.</p>' for line in lines)}</main></body></html>".encode()
    )


def _http(body: bytes, header: str = "X: y") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{header}\r\n\r\n".encode() + body


def _record(block: bytes, url: str = "https://a.example/", date: str = "2026-01-01T00:00:00Z") -> bytes:
    return (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {date}\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    ).encode() + (block + b"\r\n\r\n")


def _gzip(data: bytes, level: int = 9) -> bytes:
    return gzip.compress(data, level, mtime=0)


def _zlib(data: bytes) -> bytes:
    return zlib.compress(data, 9)


def _reads(path: Path, data: bytes) -> Outcome:
    """Whether the reader is done with an archive in 8 s for each MB, and 8 s at least."""
    from pipeline.warc.reader import Damage, responses

    path.write_bytes(data)
    begin = time.perf_counter()
    found = [isinstance(item, Damage) for item in responses(path)]
    seconds = time.perf_counter() - begin
    held = seconds < 8 * max(1, len(data) / 1e6)
    return held, f"{len(found) - sum(found)} records in {seconds:.1f} s of {len(data) / 1e3:.0f} kB"


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def _parquet(path: Path, texts: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": texts}), path, compression="zstd")


def _repeated_parquet(path: Path, text: str, times: int) -> None:
    import pyarrow as pa

    _parquet(path, pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text])))


def _texts(name: str) -> tuple[int, dict[str, Any]]:
    """The exit status of `text` on a file, and the ledger, {} without one."""
    done = stage(
        *("pipeline", "text", "--files", name, "--language-id", "none", "--text", "text", "--url", "url"),
        *("--language", "fr", "--languages", "fr", "--output", "pages/0.json", "--ledger", "pages/0.ledger.json"),
    )
    ledger = Path("pages/0.ledger.json")
    return done.returncode, json.loads(ledger.read_text()) if ledger.exists() else {}


def _texts_kept(name: str, least: int, count: int) -> Outcome:
    """Whether at least so many texts of a file are kept."""
    status, ledger = _texts(name)
    kept = ledger["kept"]["documents"] if ledger else 0
    return kept >= least, f"status {status}, {kept} of {count} texts kept"


def _texts_are_bounded(name: str, most_mb: int = 3000) -> Outcome:
    """Whether the stage ends well, with no more than so much memory and 2 GiB of texts."""
    import resource

    status, ledger = _texts(name)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    kept = ledger["kept"]["bytes"] / 2**30 if ledger else 0
    held = status == 0 and peak < most_mb and kept < 2
    return held, f"status {status}, {peak} MB of memory, {kept:.1f} GiB of text"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


@functools.cache
def _language_model() -> str:
    """lid.176.ftz, in a folder that stays as long as this process."""
    from pipeline.crawl.sample import fetch_language_model

    path = Path(_folder().name, "lid.176.ftz")
    fetch_language_model(str(path), str(ROOT / "downloads"))
    return str(path)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


# Mutants ------------------------------------------------------------------------------------------


def _make_warc(folder: Path) -> None:
    """20 pages, some of them in an encoding or with other headers, a gzip member each."""
    headers = ("X: y", "Content-Encoding: gzip", "Transfer-Encoding: chunked", "Content-Encoding: gzip, gzip")
    with (folder / "a.warc.gz").open("wb") as file:
        for number in range(20):
            body, header = _page(number), headers[number % len(headers)]
            for _ in range(header.count("gzip")):
                body = _gzip(body)
            if "chunked" in header:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            file.write(_gzip(_record(_http(body, header), f"https://a.example/{number}")))


def _read_warc(folder: Path) -> str:
    """The stage `extract` on it: what was kept, dropped and failed."""
    from pipeline.extract.options import Extract
    from pipeline.extract.webpages import extract

    options = Extract(languages=["fr"], language_min_score=0.0)
    warcs = list(map(str, sorted(folder.glob("*.warc.gz"))))
    output, ledger = folder / "out" / "pages.json", folder / "out" / "ledger.json"
    extract(options, warcs, _language_model(), str(output), str(ledger), 1, None)
    counts = json.loads(ledger.read_text())
    dropped, failed = (sum(c["documents"] for c in counts[key].values()) for key in ("dropped", "failed"))
    return f"{counts['kept']['documents']} kept, {dropped} dropped, {failed} failed"
