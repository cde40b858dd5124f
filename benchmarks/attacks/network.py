"""Attacks by servers, by what they serve, and by lists of what to fetch."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import Outcome, stage

OK = b"HTTP/1.1 200 OK\r\n"
HELD = 20.0  # seconds after which a client that waits two is said to be held


# Servers that hold the client ---------------------------------------------------------------------


def byte_by_byte(folder: Path) -> Outcome:
    """A body of one byte every 50 ms, where 2 s without 1,000 bytes a second are allowed."""
    return _held_up(lambda connection, _: _drip(connection, OK + b"Content-Length: 1000000\r\n\r\n", b"x"))


def head_byte_by_byte(folder: Path) -> Outcome:
    """A header of one byte every 50 ms, where 2 s are allowed until the answer begins."""
    return _held_up(lambda connection, _: _drip(connection, OK + b"X: ", b"y"))


def continue_for_ever(folder: Path) -> Outcome:
    """A server that says 100 Continue again and again."""
    return _held_up(lambda connection, _: _drip(connection, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500))


def trailers_for_ever(folder: Path) -> Outcome:
    """A chunked body that ends, and trailers that do not."""
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    return _held_up(lambda connection, _: _drip(connection, head, b"Trailer: x\r\n" * 500))


def new_etag_each_time(folder: Path) -> Outcome:
    """A server that gives 1 MiB of a file, breaks off, and has another version of it at each request."""
    return _begins_again(lambda number: b'ETag: "%d"\r\n' % number)


def no_etag_each_time(folder: Path) -> Outcome:
    """A server that gives 1 MiB of a file and breaks off, and does not say which version it is."""
    return _begins_again(lambda _: b"")


def wait_of_minutes_beside_an_error(folder: Path) -> Outcome:
    """A server that asks to come back in 30 s, again and again, while another file is forbidden."""
    from pipeline.crawl.fetch import fetch_files

    def answer(connection: socket.socket, path: str) -> None:
        busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 30\r\n\r\n"
        connection.sendall(busy if path == "/a" else b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with _serving(answer) as url:
        begin = time.monotonic()
        with contextlib.suppress(Exception):
            fetch_files([f"{url}/a", f"{url}/b"], "out", "cache", 1, 2)
    seconds = time.monotonic() - begin
    return seconds < HELD, f"the error came after {seconds:.1f} s"


def _begins_again(header: Callable[[int], bytes]) -> Outcome:
    from pipeline.network import client
    from pipeline.network.transports import FetchError

    client.FIRST_WAIT = 0.0
    numbers = itertools.count(1)
    asked = 0

    def answer(connection: socket.socket, _: str) -> None:
        nonlocal asked
        asked = next(numbers)
        head = header(asked) if asked <= 60 else b"Last: x\r\n"
        status = OK if asked <= 60 else b"HTTP/1.1 404 No\r\n"
        connection.sendall(status + head + b"Content-Length: 9999999\r\n\r\n" + bytes(2**20 + 1))

    with _serving(answer) as url, contextlib.suppress(FetchError):
        client.Client(1).download(f"{url}/x", Path("part"))
    return asked <= 20, f"given up after {asked} requests" if asked <= 60 else "asked for more than 60 times"


def _held_up(answer: Callable[[socket.socket, str], None]) -> Outcome:
    from pipeline.network import client, transports

    with contextlib.suppress(ImportError):
        from pipeline.network import connections

        connections.SLOW_SECONDS = connections.HEAD_SECONDS = 2.0
    client.SLOW_SECONDS = transports.READ_SECONDS = 2.0  # as the version before has them
    done = threading.Event()

    def fetch(url: str) -> None:
        with contextlib.suppress(Exception):
            client.Client(1, retries=0).read_whole(url, 10**8)
        done.set()

    with _serving(answer) as url:
        begin = time.monotonic()
        threading.Thread(target=fetch, args=(f"{url}/x",), daemon=True).start()
        ended = done.wait(HELD)
        seconds = time.monotonic() - begin
    return ended, f"given up after {seconds:.1f} s" if ended else f"still held after {seconds:.0f} s"


def body_without_end(folder: Path) -> Outcome:
    """A body of unstated length that goes on, on a disk with 1 GB free."""
    from pipeline.network import client
    from pipeline.network.transports import FetchError

    part = Path("part")

    def usage(_: Any) -> Any:
        size = part.stat().st_size if part.exists() else 0
        return type("Usage", (), {"free": max(0, 10**9 - size)})

    client.shutil.disk_usage = usage  # type: ignore[attr-defined]
    sent = 0

    def answer(connection: socket.socket, _: str) -> None:
        nonlocal sent
        connection.sendall(OK + b"\r\n")
        while sent < 2 * 10**9:
            connection.sendall(bytes(2**20))
            sent += 2**20

    with _serving(answer) as url, contextlib.suppress(FetchError):
        client.Client(1, retries=0).download(f"{url}/x", part)
    left = part.stat().st_size
    return sent < 10**9 and left < 10**6, f"{sent / 1e6:,.0f} MB taken, {left / 1e6:,.0f} MB left on the disk"


def length_of_5000_digits(folder: Path) -> Outcome:
    """A Content-Length of 5,000 digits."""
    from pipeline.network.client import Client
    from pipeline.network.transports import FetchError

    head = OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"
    with _serving(lambda connection, _: connection.sendall(head)) as url:
        try:
            Client(1, retries=0).size(f"{url}/x")
        except FetchError as error:
            return True, f"refused: {str(error)[-40:]}"
        except ValueError as error:
            return False, f"ValueError: {str(error)[:40]}"
    return False, "taken for a length"


# Astray -------------------------------------------------------------------------------------------


def redirect_to_this_machine(folder: Path) -> Outcome:
    """A redirect to a service of this machine, as localhost, 127.1 and a number."""
    from pipeline.network.client import Client
    from pipeline.network.transports import FetchError

    reached = []
    with _serving(lambda connection, _: connection.sendall(OK + b"Content-Length: 4\r\n\r\nkeys")) as inside:
        port = inside.rpartition(":")[2]
        for host in ("localhost", "127.1", "2130706433"):
            answer = f"HTTP/1.1 302 Found\r\nLocation: http://{host}:{port}/secret\r\n\r\n".encode()
            with (
                _serving(lambda connection, _, answer=answer: connection.sendall(answer)) as url,  # type: ignore[misc]
                contextlib.suppress(FetchError),
            ):
                if Client(1, retries=0).read_whole(f"{url}/x", 1000) == b"keys":
                    reached.append(host)
    return not reached, f"{len(reached)} of 3 names led to it"


def two_urls_of_one_short_hash(folder: Path) -> Outcome:
    """Two URLs with the same first 32 bits of xxh3 and the same file name, fetched one after the other."""
    import xxhash

    from pipeline.crawl.fetch import fetch_files

    with _serving(_its_path) as url:
        known: dict[str, str] = {}
        for number in itertools.count():
            second = f"{url}/{number}/a.warc.gz"
            first = known.setdefault(xxhash.xxh3_64_hexdigest(second.encode())[:8], second)
            if first != second:
                break
        for name, source in (("one", first), ("two", second)):
            fetch_files([source], name, "cache", 1, 1)
    entry = json.loads(Path("two/fetched.json").read_text())["files"][0]
    got = Path("two", entry["file"]).read_text()
    held = second.endswith(got)
    return held, "each its own bytes" if held else "the second URL got the bytes of the first"


def _its_path(connection: socket.socket, path: str) -> None:
    connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(path) + path.encode())


# Secrets and terminals ----------------------------------------------------------------------------


def signed_url(folder: Path) -> Outcome:
    """A signed URL, fetched: is its signature in a file or a message?"""
    with _serving(_its_path_without_query) as url:
        signed = f"{url}/a.warc.gz?X-Amz-Signature=0f1e2d3c4b5a"
        done = stage("pipeline", "fetch", "--sources", signed, "--output", "out", "--cache", "cache")
        gone = f"{url}/gone/a.warc.gz?X-Amz-Signature=0f1e2d3c4b5a"
        failed = stage("pipeline", "fetch", "--sources", gone, "--output", "gone", "--cache", "cache")
    texts = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    texts |= {"what is printed": (done.stdout + done.stderr + failed.stdout + failed.stderr).encode()}
    leaks = [name for name, text in texts.items() if b"0f1e2d3c4b5a" in text + name.encode()]
    return not leaks and not done.returncode, f"in {len(leaks)} places: {', '.join(Path(x).name for x in leaks)}"[
        :60
    ]


def _its_path_without_query(connection: socket.socket, path: str) -> None:
    if path.startswith("/gone"):
        connection.sendall(b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n")
    else:
        _its_path(connection, path.partition("?")[0])


def password_in_a_url(folder: Path) -> Outcome:
    """A URL with a password, which is refused: is the password in the message?"""
    url = "https://me:hunter2@data.example/a.warc.gz"
    done = stage("pipeline", "fetch", "--sources", url, "--output", "out", "--cache", "cache")
    printed = "hunter2" in done.stdout + done.stderr
    return not printed and done.returncode == 1, "printed" if printed else "not printed"


def reason_with_terminal_codes(folder: Path) -> Outcome:
    """An HTTP reason phrase that clears the screen and sets the title of the terminal."""
    from pipeline.common import cli
    from pipeline.network import client

    client.FIRST_WAIT = 0.0
    answer = b"HTTP/1.1 503 \x1b[2J\x1b]0;owned\x07busy\r\nContent-Length: 0\r\n\r\n"
    from pipeline.__main__ import STAGES

    errors = io.StringIO()
    with _serving(lambda connection, _: connection.sendall(answer)) as url, contextlib.redirect_stderr(errors):
        cli.main("pipeline", "", STAGES, ["fetch", "--sources", f"{url}/x", "--output", "out", "--cache", "cache"])
    raw = "\x1b" in errors.getvalue()
    return not raw, "reaches the terminal" if raw else "escaped"


# Lists and the index ------------------------------------------------------------------------------


def list_of_33_million_lines(folder: Path) -> Outcome:
    """A list of a crawl of 130 kB that unpacks to 134 MB of short lines."""
    from pipeline.common.errors import StageError
    from pipeline.crawl.commoncrawl import listed

    body = gzip.compress(b"a/b\n" * 2**25)
    head = OK + b"Content-Length: %d\r\n\r\n" % len(body)
    with _serving(lambda connection, _: connection.sendall(head + body)) as url:
        try:
            listed(url, "CC-MAIN-2026-30", "warc", "cache", 1)
            outcome = "taken for a list"
        except StageError as error:
            outcome = str(error)[-50:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return peak < 1000, f"{peak:,} MB; {outcome}"


def index_of_long_names(folder: Path) -> Outcome:
    """An index file of 40 kB whose million host names have 100,000 characters each."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**6, np.int32)), pa.array(["h" * 10**5]))
    rows = _index_rows(10**6)
    rows["url_host_name"] = names
    pq.write_table(pa.table(rows), "index.parquet")
    return _within(_read_index(folder), 9000)


def index_of_lengths_beyond_64_bits(folder: Path) -> Outcome:
    """An index in which one record has 2^62 bytes: do the others still have a part?"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _index_rows(100)
    rows["warc_record_length"] = [100] * 50 + [2**62] + [100] * 49
    pq.write_table(pa.table(rows), "index.parquet")
    outcome = _read_index(folder)
    return outcome.startswith("read 99 "), outcome


def index_with_bytes_that_are_no_text(folder: Path) -> Outcome:
    """An index in which one host name is no UTF-8."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _index_rows(100)
    rows["url_host_name"] = pa.array([b"a.example"] * 99 + [b"\xff"]).view("string")
    pq.write_table(pa.table(rows), "index.parquet")
    outcome = _read_index(folder)
    return outcome.startswith("read 100 "), outcome


def _within(outcome: str, most: int) -> Outcome:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return outcome.startswith("refused") and peak < most, f"{outcome[:45]}; {peak:,} MB"


def _index_rows(count: int) -> dict[str, Any]:
    """The columns of an index of so many records, ten of them a WARC."""
    return {
        "warc_filename": [f"crawl-data/CC-MAIN-2026-30/warc/{i // 10:05d}.warc.gz" for i in range(count)],
        "warc_record_offset": [1000 * (i % 10) for i in range(count)],
        "warc_record_length": [900] * count,
        "content_digest": [f"{i:032d}" for i in range(count)],
        "content_languages": ["fra"] * count,
        "content_mime_detected": ["text/html"] * count,
        "fetch_status": [200] * count,
        "url_host_name": [f"www.site{i % 7}.example" for i in range(count)],
        "url_host_tld": ["example"] * count,
    }


def _make_index(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(_index_rows(300)), folder / "index.parquet", row_group_size=100, compression="none")


def _read_index(folder: Path) -> str:
    """Plan the records of the index in a folder: how many are in the parts, and how many rows are not."""
    from pipeline.common.errors import StageError
    from pipeline.crawl.index import plan_records, read_plan
    from pipeline.crawl.options import Index

    options = Index(crawl="CC-MAIN-2026-30", languages=["fra"], files=3, tables=[str(folder / "index.parquet")])
    plan, report = folder / "plan.arrow", folder / "plan.json"
    try:
        plan_records(options, str(plan), str(report), str(folder / "cache"), 1, 0.1, 1e6)
    except StageError as error:
        return f"refused: {str(error).partition('index.parquet: ')[2] or error}"
    count = sum(len(read_plan(str(plan), part)) for part in range(3))
    left_out = Counter(json.loads(report.read_text())["rows_left_out"]).total()
    return f"read {count} records, {left_out} rows left out"


# A server -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serving(answer: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """The URL of a server that calls `answer` with each connection and the path that is asked for."""

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection, connection.recv(2**16).split()[1].decode())

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _drip(connection: socket.socket, head: bytes, each: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(each)
        time.sleep(0.05)
