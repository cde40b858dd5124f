"""Attacks by way of files: two writers of one, links that were planted, names that are too long."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import Outcome


def two_writers_of_a_file(folder: Path) -> Outcome:
    """Two writers of one file at once: the one that ends last says that all is well; are the bytes its own?"""
    from pipeline.common.files import atomic

    target = folder / "a"
    first = atomic(target)
    try:
        part = first.__enter__()
        part.write_text("first" * 10)
        with contextlib.suppress(OSError), atomic(target) as other:
            other.write_text("second")
            first.__exit__(None, None, None)
            left = target.read_text()
    except OSError as error:
        return False, f"{type(error).__name__}: {error.strerror}"
    return left == "first" * 10, f"success was said for the bytes of {left[:6]!r}"


def two_writers_of_a_folder(folder: Path) -> Outcome:
    """The same for a folder."""
    from pipeline.common.files import atomic_folder

    first = atomic_folder(folder / "a")
    try:
        part = first.__enter__()
        (part / "one").write_text("first")
        with contextlib.suppress(OSError), atomic_folder(folder / "a") as other:
            (other / "two").write_text("second")
            first.__exit__(None, None, None)
            left = sorted(path.name for path in (folder / "a").iterdir())
    except OSError as error:
        return False, f"{type(error).__name__}: {error.strerror}"
    return left == ["one"], f"the folder of the first has {', '.join(left)}"


def two_runs_of_a_batch(folder: Path) -> Outcome:
    """Two runs fetch the same batch into the same folder at the same time, each with a cache of its own."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sources = [f"http://127.0.0.1:{server.server_address[1]}/{name}.warc.gz" for name in "abcdefgh"]
        runs = [multiprocessing.Process(target=_fetch, args=(sources, f"cache{n}")) for n in range(2)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        server.shutdown()
    files = list(Path("out").glob("*.warc.gz"))
    whole = sum(path.stat().st_size == SIZE for path in files)
    failed = sum(run.exitcode != 0 for run in runs)
    return whole == 8 and not failed, f"{failed} of 2 runs failed; {whole} of 8 files are whole"


SIZE = 3_000_000


def _fetch(sources: list[str], cache: str) -> None:
    from pipeline.crawl.fetch import fetch_files

    fetch_files(sources, "out", cache, 0, 2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        for _ in range(10):
            self.wfile.write(self.path.encode()[1:2] * (SIZE // 10))
            time.sleep(0.02)

    def log_message(self, *_: Any) -> None:
        pass


def link_in_place_of_a_part(folder: Path) -> Outcome:
    """A symbolic link NAME.part, planted in the folder of a file that is written, to a file of the user's."""
    from pipeline.common.files import atomic

    def write() -> None:
        with atomic(folder / "a") as part:
            part.write_text("new")

    return _through_a_link(folder / "a.part", folder, write)


def link_in_place_of_a_slot(folder: Path) -> Outcome:
    """A symbolic link in a cache that several people use, where transfers are counted."""
    from pipeline.network.client import Client

    (folder / "slots").mkdir()

    def ask() -> None:
        with Client(1, folder / "slots", retries=0)._slot():
            pass

    return _through_a_link(folder / "slots" / "0.slot", folder, ask)


def link_in_place_of_a_lock(folder: Path) -> Outcome:
    """A symbolic link in a folder of downloads that several people use, where package clients take turns."""
    from hashlib import sha256

    from pipeline.common.packages import Package, fetch

    (folder / "downloads/npm/x@1.0.0").mkdir(parents=True)
    (folder / "downloads/npm/x@1.0.0/a.tgz").touch()
    package = Package("npm", ("x@1.0.0",), sha256(b"").hexdigest())
    return _through_a_link(folder / "downloads/.lock", folder, lambda: fetch(package, folder / "downloads"))


def link_in_place_of_a_transfer(folder: Path) -> Outcome:
    """A symbolic link in such a cache where a transfer is kept until it is whole."""
    import hashlib

    import xxhash

    (folder / "cache/parts").mkdir(parents=True)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_address[1]}/a.warc.gz"
        names = [
            hashlib.sha256(source.encode()).hexdigest(),
            f"{xxhash.xxh3_64_hexdigest(source.encode())[:8]}-a.warc.gz",
        ]
        for name in names[1:]:
            (folder / "cache/parts" / f"{name}.part").symlink_to(folder / "victim")
        result = _through_a_link(
            folder / "cache/parts" / f"{names[0]}.part", folder, lambda: _fetch([source], str(folder / "cache"))
        )
        server.shutdown()
    return result


def _through_a_link(link: Path, folder: Path, work: Any) -> Outcome:
    victim = folder / "victim"
    victim.write_text("precious")
    link.symlink_to(victim)
    said = "done"
    try:
        work()
    except OSError as error:
        said = f"refused: {error.strerror}"
    untouched = victim.exists() and victim.read_text() == "precious"
    return untouched, said if untouched else "the user's file was overwritten"


def archive_of_a_long_name(folder: Path) -> Outcome:
    """An archive whose name has as many bytes as a name may have: can a file be made of it?"""
    from pipeline.crawl.origins import unique_name

    name = "x" * 247 + ".warc.gz"
    made = Path(f"{unique_name(name, name)}.ledger.json.part")
    try:
        made.touch()
    except OSError as error:
        return False, f"{error.strerror} ({len(made.name)} bytes)"
    return True, f"of {len(made.name)} bytes"
