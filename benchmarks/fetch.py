"""Fetching from a server on this machine: whole files beside curl and a plain GET, and records beside whole files.

    python -m benchmarks.fetch --output docs/benchmarks/fetch

The server is that of the tests, in a process of its own. Records are those of the French sites of the mixed crawl
(benchmarks/crawl.py); each request waits LATENCY first, as on a network.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

from benchmarks.crawl import make_crawl
from benchmarks.report import measure, write
from pipeline.common.files import read_json
from pipeline.crawl.index import plan_records
from pipeline.crawl.options import Index
from pipeline.crawl.origins import read_folder
from pipeline.crawl.records import fetch_records
from pipeline.network.client import Client

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "pipeline")]  # the server and the index are made for the tests

FILE_BYTES, ROUNDS = 2**29, 3
LATENCY, CONNECTIONS = 0.03, 4
FRENCH_HOSTS = ("travail-emploi.gouv.fr", "help-fr.libreoffice.example", "lilypond.example")
GAPS = (0, 2**13, 2**15, 2**17)


def serve(files: dict[str, Path], latency: float, pipe: Any) -> None:
    """The server's process: says its URL, then answers "count" with (requests, bytes) since the last time."""
    from server import serving

    with serving() as server:
        server.files = {path: file.read_bytes() for path, file in files.items()}
        server.latency = latency
        pipe.send(server.url)
        while pipe.recv() == "count":
            pipe.send((len(server.requests), server.sent))
            server.requests.clear()
            server.sent = 0


class Served:
    """A context in which `files` are served; `count` says what was asked for since it was asked last."""

    def __init__(self, files: dict[str, Path], latency: float = 0.0) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(files, latency, theirs), daemon=True)

    def __enter__(self) -> Served:
        self.process.start()
        self.url = self.pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.send("end")
        self.process.join()

    def count(self) -> tuple[int, int]:
        self.pipe.send("count")
        return self.pipe.recv()


def plain_get(url: str, path: Path) -> None:
    with urllib3.PoolManager().request("GET", url, preload_content=False) as answer, path.open("wb") as file:
        for piece in answer.stream(2**18):
            file.write(piece)


def curl(url: str, path: Path) -> None:
    subprocess.run(["curl", "-s", "-o", str(path), url], check=True)


def ours(url: str, path: Path) -> None:
    Client(CONNECTIONS, path.parent / "slots").download(url, path)


def whole_files(folder: Path) -> list[dict[str, Any]]:
    """MB a second of each contender, the median of ROUNDS; ours also checks the MD5 that the server states."""
    big = folder / "big"
    big.write_bytes(b"\x1f\x8b" + bytes(FILE_BYTES - 2))
    tools: dict[str, Callable[[str, Path], None]] = {"curl": curl, "urllib3, a plain GET": plain_get, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    with Served({"/big": big}) as server:
        for _ in range(ROUNDS):
            for name, tool in tools.items():
                target = folder / "target"
                target.unlink(missing_ok=True)
                _, cost = measure(lambda tool=tool, target=target: tool(f"{server.url}/big", target))
                seconds[name].append(cost["wall_s"])
    return [
        {"what": f"one file of {FILE_BYTES >> 20} MiB", "contender": name, "requests": 1, "MB": FILE_BYTES / 1e6}
        | {"seconds": sorted(times)[ROUNDS // 2], "records": 0}
        for name, times in seconds.items()
    ]


def records(folder: Path, crawl: Path) -> list[dict[str, Any]]:
    """Requests, bytes and seconds for the French records of the crawl, by gap, and for its whole files."""
    from index_files import CRAWL, index_rows, parquet

    paths = {f"crawl-data/{CRAWL}/segments/1/warc/{Path(p).name}": Path(p) for p in make_crawl("mixed", crawl)}
    rows = [row for path, file in paths.items() for row in index_rows(path, file.read_bytes())]
    for row in rows:
        row["content_languages"] = "fra" if row["url_host_name"] in FRENCH_HOSTS else "eng"
    rows.sort(key=lambda row: row["url_surtkey"])
    (folder / "index.parquet").write_bytes(parquet(rows, row_group_size=10_000))
    results = []
    with Served({f"/{path}": file for path, file in paths.items()}, LATENCY) as server:
        client = Client(CONNECTIONS)
        _, cost = measure(lambda: [client.download(f"{server.url}/{path}", folder / "whole") for path in paths])
        requests, sent = server.count()
        what = f"{len(rows):,} records in {len(paths)} WARCs"
        base = {"what": what, "requests": requests, "MB": sent / 1e6, "seconds": cost["wall_s"]}
        results.append(base | {"contender": "whole files, one by one", "records": len(rows)})
        for gap in GAPS:
            options = Index(
                crawl=CRAWL,
                languages=["fra"],
                files=1,
                gap=gap,
                base_url=server.url,
                tables=[str(folder / "index.parquet")],
            )
            files = [str(folder / name) for name in ("plan.arrow", "plan.json", "cache")]
            plan_records(options, *files, CONNECTIONS, LATENCY, 1e9)
            server.count()
            output = folder / f"gap{gap}"
            run = (options, files[0], 0, str(output), files[2], CONNECTIONS)
            _, cost = measure(lambda run=run: fetch_records(*run))
            requests, sent = server.count()
            planned = read_json(files[1])
            assert {"requests": requests, "bytes": sent} == planned["by_gap"][str(gap)]
            assert read_folder(output)[1] == []
            results.append(
                {"what": what, "contender": f"French records, gap {gap:,}", "requests": requests}
                | {"MB": sent / 1e6, "seconds": cost["wall_s"], "records": planned["records"]}
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="the table, without suffix")
    parser.add_argument("--crawl", help="folder that keeps the crawl (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [*whole_files(folder), *records(folder, Path(arguments.crawl or temporary))]
    columns = ("what", "contender", "records", "requests", "MB", "seconds")
    notes = [
        f"{CONNECTIONS} connections; records: {LATENCY * 1000:.0f} ms before each answer. "
        "Server and client share the machine."
    ]
    write(arguments.output, "Fetching", [{key: row[key] for key in columns} for row in rows], notes)


if __name__ == "__main__":
    main()
