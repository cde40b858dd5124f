"""Paragraph deduplication: speed and memory of its steps on one core, and datatrove on the same text.

    python -m benchmarks.dedup --output docs/benchmarks/dedup --peers .venv-peers/bin/python

Text and hashes are made by code, with a fixed seed. What each tool keeps is compared with a plain reference that
remembers every paragraph. benchmarks/peers.txt says how to make the peers' environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.report import write
from pipeline.common.files import read_arrow, stamp, write_arrow, write_batches
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.corpus.dedup import HASH_SCHEMA

PAGE_PARAGRAPHS = 20
NEW = 0.6  # share of paragraphs that are new; the others are drawn from a few, some of them very often
TEXT_PARAGRAPHS, PEER_PARAGRAPHS = 2_000_000, 1_000_000
HASHES_PER_FILE = 5_000_000


def numbers(rng: np.random.Generator, count: int, first: int) -> np.ndarray:
    """What paragraph stands at each of `count` places, as numbers (uint64); new ones count on from `first`."""
    fresh = np.arange(first, first + count, dtype=np.uint64) + np.uint64(2**40)
    return np.where(rng.random(count) < NEW, fresh, rng.zipf(1.2, count).astype(np.uint64) % np.uint64(10**7))


def scramble(values: np.ndarray) -> np.ndarray:
    """Numbers as well spread as hashes: the finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def make_hashes(folder: Path, paragraphs: int) -> None:
    """Hash files, as dedup-hash writes them, of paragraphs that nobody wrote."""
    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, paragraphs, HASHES_PER_FILE)):
        count = min(HASHES_PER_FILE, paragraphs - first)
        hashes, places = np.unique(scramble(numbers(rng, count, first)), return_index=True)
        schema = stamp(HASH_SCHEMA, "dedup-hash", {"normalize": "none"})
        schema = schema.with_metadata(schema.metadata | {b"paragraphs": str(count).encode()})
        batch = pa.record_batch([hashes, places.astype(np.uint64)], schema=HASH_SCHEMA)
        write_batches(folder / f"hashes-none/{number:05d}.arrow", schema, [batch], compression=None)


def pages(paragraphs: int, seed: int) -> Iterator[list[str]]:
    """Pages of PAGE_PARAGRAPHS paragraphs of 4 to 20 words."""
    rng = np.random.default_rng(seed)
    words = np.array(
        [f"{value:x}"[: 2 + value % 9] for value in scramble(np.arange(4096, dtype=np.uint64)).tolist()]
    )
    for start in range(0, paragraphs, PAGE_PARAGRAPHS):
        page = []
        for number in scramble(numbers(rng, PAGE_PARAGRAPHS, start + seed * 10**9)).tolist():
            bits = number.to_bytes(8, "little") * 4
            page.append(" ".join(words[bits[i] + 256 * (i % 16)] for i in range(4 + number % 17)) + f" {number:x}")
        yield page


def make_text(folder: Path, paragraphs: int) -> list[list[list[str]]]:
    """Two page files with the same texts as JSONL; returns their paragraphs."""
    files = []
    (folder / "jsonl").mkdir(parents=True)
    for name in (0, 1):
        texts = list(pages(paragraphs // 2, name))
        rows = [
            dict.fromkeys(PAGE_SCHEMA.names) | {"text": "\n".join(page), "url": f"{name}/{i}"}
            for i, page in enumerate(texts)
        ]
        write_arrow(folder / f"pages/{name}.arrow", PAGE_SCHEMA, rows)
        with (folder / f"jsonl/{name}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": row["text"], "id": row["url"]}) + "\n" for row in rows)
        files.append(texts)
    return files


def run(step: str, folder: Path, python: str = sys.executable) -> dict[str, float]:
    command = [python, "-m", "benchmarks.dedup_tools", step, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr.decode()[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def reference(files: list[list[list[str]]]) -> dict[str, Counter[str]]:
    """What is kept of each page if the first of equal paragraphs stays, in reading order."""
    seen: set[str] = set()
    kept = {}
    for name, texts in enumerate(files):
        for i, page in enumerate(texts):
            kept[f"{name}/{i}"] = Counter(p for p in page if not (p in seen or seen.add(p)))  # type: ignore[func-returns-value]
    return kept


def kept_by_ours(folder: Path) -> dict[str, Counter[str]]:
    rows = (
        row for path in sorted(folder.glob("documents/*.arrow")) for b in read_arrow(path) for row in b.to_pylist()
    )
    return {row["url"]: Counter(row["text"].split("\n")) for row in rows}


def kept_by_datatrove(folder: Path, tasks: int) -> dict[str, Counter[str]]:
    rows = (
        json.loads(line) for path in (folder / f"datatrove-{tasks}/documents").glob("*") for line in path.open()
    )
    return {row["id"]: Counter(row["text"].splitlines()) for row in rows}


def verdict(kept: dict[str, Counter[str]], right: dict[str, Counter[str]]) -> str:
    """What `kept` keeps that it should not, and the other way round."""
    nothing: Counter[str] = Counter()
    extra = sum((kept.get(url, nothing) - right.get(url, nothing)).total() for url in right)
    missing = sum((right.get(url, nothing) - kept.get(url, nothing)).total() for url in right)
    return "exact" if not extra + missing else f"{extra:,} kept wrongly, {missing:,} dropped wrongly"


def row(step: str, paragraphs: int, found: dict[str, float], exactness: str = "") -> dict[str, Any]:
    return {
        "step": step,
        "paragraphs": paragraphs,
        "processor time, s": found["cpu_s"],
        "M paragraphs/s": paragraphs / found["cpu_s"] / 1e6,
        "own memory, MiB": round(found["own_mib"]),
        "with mapped files, MiB": round(found["peak_mib"]),
        "beside the reference": exactness,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="path of the table, without its ending")
    parser.add_argument("--paragraphs", type=int, default=100_000_000, help="for the reduce")
    parser.add_argument("--peers", help="Python of the environment with datatrove")
    arguments = parser.parse_args()
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_hashes(folder / "many", arguments.paragraphs)
        rows.append(row("reduce, hashes made by code", arguments.paragraphs, run("reduce", folder / "many")))
        make_text(folder / "text", TEXT_PARAGRAPHS)
        steps = {step: run(step, folder / "text") for step in ("hash", "hash, ccnet", "reduce", "apply")}
        rows += [row(step, TEXT_PARAGRAPHS, found) for step, found in steps.items()]
        peer = folder / "peer"
        right = reference(make_text(peer, PEER_PARAGRAPHS))
        ours = [run(step, peer) for step in ("hash", "reduce", "apply")]
        total = {key: (sum if key == "cpu_s" else max)(f[key] for f in ours) for key in ours[0]}
        rows.append(row("ours, all steps", PEER_PARAGRAPHS, total, verdict(kept_by_ours(peer), right)))
        if arguments.peers:
            for tasks, step in ((1, "datatrove, 1 task"), (2, "datatrove, 2 tasks")):
                found = run(step, peer, arguments.peers)
                rows.append(row(step, PEER_PARAGRAPHS, found, verdict(kept_by_datatrove(peer, tasks), right)))
            notes.append(
                f"On the same text ours is {rows[-2]['processor time, s'] / total['cpu_s']:.1f} times as fast as "
                "datatrove's sentence dedup (64-bit hashes; lines for sentences, one a span, nothing normalised)."
            )
        else:
            notes.append("datatrove was not run: no --peers.")
    write(arguments.output, "Paragraph deduplication on one core", rows, notes)


if __name__ == "__main__":
    main()
