"""Extraction beside the plain loop and datatrove, on the same WARC files in one run, each tool on one core.

    python -m benchmarks.extraction --output docs/benchmarks/extraction --peers .venv-peers/bin/python

makes the crawls from packages (benchmarks/crawl.py), runs every tool in a process of its own, in turns, and takes
the least of its times: what others do on the machine only adds to it. benchmarks/peers.txt says how to make the
peers' environment; without it datatrove is left out, in words.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.crawl import make_crawl
from benchmarks.report import write
from pipeline.crawl.sample import fetch_language_model

ROUNDS = 2
REPEATS = 4  # of the mixed crawl, for two workers: a crawl long enough to forget the start of the cluster


def run(tool: str, warcs: list[str], model: str, python: str = sys.executable, workers: int = 1) -> dict[str, Any]:
    """What benchmarks.extraction_tools prints."""
    command = [python, "-m", "benchmarks.extraction_tools", tool, "--model", model, "--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--warcs", *warcs], env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr.decode()[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    logging.info("%s: %.1f s of processor time, %d kept", tool, found["cpu_s"], len(found["kept"]))
    return found


def compare(
    crawl: str, warcs: list[str], model: str, tools: dict[str, tuple[str, int]], base: str
) -> list[dict[str, Any]]:
    """A row a tool: the least time of its rounds, and what it keeps of what `base` keeps.

    `tools`: for each tool its Python and how many rounds it runs.
    """
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    for number in range(ROUNDS):
        for tool, (python, rounds) in tools.items():
            if number < rounds:
                runs[tool].append(run(tool, warcs, model, python))
    best = {tool: min(r["cpu_s"] for r in found) for tool, found in runs.items()}
    reference = set(runs[base][0]["kept"])
    rows = []
    for tool, found in runs.items():
        kept = set(found[0]["kept"])
        rows.append(
            {
                "crawl": crawl,
                "tool": tool,
                "processor time, s": best[tool],
                f"times faster than {base}": best[base] / best[tool],
                "pages kept": len(found[0]["kept"]),
                "lost": len(reference - kept),
                "gained": len(kept - reference),
                "peak MiB": max(r["peak_mib"] for r in found),
            }
        )
    return rows


def two_workers(warcs: list[str], model: str) -> str:
    """Two workers beside one on REPEATS copies of a crawl, the start of the cluster included."""
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for i in range(REPEATS):
            for warc in warcs:
                copies.append(f"{folder}/{i}-{Path(warc).name}")
                Path(copies[-1]).symlink_to(Path(warc).resolve())
        one, two = (run("ours", copies, model, workers=n)["wall_s"] for n in (1, 2))
    return (
        f"Two workers on {len(copies)} WARC files: {two:.1f} s, one: {one:.1f} s: {one / two:.2f} times as fast."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="path of the table, without its ending")
    parser.add_argument("--crawls", default="downloads/benchmarks", help="folder that keeps the crawls")
    parser.add_argument("--peers", help="Python of the environment with datatrove")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = Path(arguments.crawls)
    folder.mkdir(parents=True, exist_ok=True)
    model = str(folder / "lid.176.ftz")
    fetch_language_model(model, "downloads")
    mixed, french = (make_crawl(name, folder) for name in ("mixed", "french"))
    ours, rounds = (sys.executable, ROUNDS), {"plain": (sys.executable, ROUNDS)}
    rows = compare("5% French", mixed, model, rounds | {"ours": ours, "no_cascade": (sys.executable, 1)}, "plain")
    rows += compare("French", french, model, rounds | {"ours": ours}, "plain")
    notes = [two_workers(mixed, model)]
    if arguments.peers:
        peers = compare(
            "5% French", mixed[:1], model, {"datatrove": (arguments.peers, 1), "ours": ours}, "datatrove"
        )
        time = "processor time, s"
        a, b = (next(row for row in peers if row["tool"] == tool) for tool in ("datatrove", "ours"))
        notes.append(
            f"One of the {len(mixed)} files of 5% French: datatrove (WarcReader, Trafilatura, LanguageFilter) "
            f"{a[time]:.1f} s of processor time, ours {b[time]:.2f} s: {a[time] / b[time]:.0f} times as fast; "
            f"{a['pages kept']} and {b['pages kept']} pages kept."
        )
    else:
        notes.append("datatrove was not run: no --peers.")
    write(arguments.output, "Extraction of one language from a crawl", rows, notes)


if __name__ == "__main__":
    main()
