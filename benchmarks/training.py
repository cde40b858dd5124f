"""The trainer on a CPU beside its peers: `python -m benchmarks.training --output results/benchmarks/training`.

Speed and memory against Hugging Face's Trainer with peft's LoRA of the same budget of extra weights, and the
loader against `datasets.interleave_datasets`; `python -m benchmarks.gpu` is for a GPU, and measures steps by the
same code. All weights and tokens are random, which costs the same as any. Each measurement is a process of its
own, so that its memory is, and one that fails costs no other; the contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import write

# rows x row_tokens is a micro-batch, which is a whole step here. On a host that others use, 20 steps are too few.
CASE: dict[str, Any] = {"sizes": "1.4M", "rows": 8, "row_tokens": 128, "timed": 60}
CASE |= {"device": "cpu", "toy": False, "compile": False}
TRAINING, PEER = "extend a 1.4M Llama", "Trainer + peft LoRA"
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    PEER: ("speed:peer", {}),
    "lora": ("speed:ours", {"method": "lora"}),
    "neutral": ("speed:ours", {"method": "neutral"}),
    f"{PEER}, fp32": ("benchmarks.training:peer_in_fp32", {}),
    f"{PEER}, compiled": ("speed:peer", {"compile": True}),
    "neutral, compiled": ("speed:ours", {"method": "neutral", "compile": True}),
}
ESTIMATE_S, CAP_S = 15, 120
LOADER_ROWS, LOADER_TOKENS, LOADER_BATCH, OLD_RATE = 20_000, 2048, 64, 0.1
LOADER, LOADER_PEER = f"load rows of {LOADER_TOKENS} tokens", "datasets.interleave_datasets"
PEERS = (PEER, LOADER_PEER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="results/benchmarks/training", help="path without .md and .json")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--minutes", type=float, default=5, help="what has not ended by then is left out")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is there

    import torch

    from benchmarks.gpu.__main__ import run_all
    from benchmarks.gpu.steps import Step

    steps = [Step(LOADER, f"benchmarks.training:{name}", ESTIMATE_S, CAP_S, {"contender": contender})
             for contender, name in ((LOADER_PEER, "peer_loader"), ("batches", "our_loader"))]  # fmt: skip
    for _ in range(arguments.rounds):
        for contender, (function, job) in CONTENDERS.items():
            steps.append(Step(TRAINING, function, ESTIMATE_S, CAP_S, CASE | job | {"contender": contender}))
    notes = [
        f"Trained on the CPU, {arguments.threads} threads; torch {torch.__version__}; in bf16 where the "
        f"CPU has instructions for it. Medians of {arguments.rounds} turns; `times` and memory are over those of "
        "the fastest peer.",
        "On a GPU: `python -m benchmarks.gpu`.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_all(steps, arguments.minutes, Path(folder), Path(folder))
        finally:  # what there is by then
            lines = [json.loads(line) for line in (Path(folder) / "steps.jsonl").read_text().splitlines()]
            write(arguments.output, "Training", table(lines), notes)
    print(Path(f"{arguments.output}.md").read_text())


def table(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each contender: the medians of its turns that ended; where none did, why not."""
    turns_of: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        turns_of.setdefault((line["step"], line["job"]["contender"]), []).append(line)
    middle = {key: medians(turns) for key, turns in turns_of.items()}
    rows = []
    for (what, contender), one in middle.items():
        peers = [value for key, value in middle.items() if key[0] == what and key[1].startswith(PEERS)]
        best = max((peer for peer in peers if peer), key=lambda peer: peer["speed"], default={})
        row = {"what": what, "contender": contender, "speed": one.get("speed")}
        row |= {"unit": "tokens/s" if what == TRAINING else "rows/s", "times": over(one, best, "speed")}
        row |= {"peak MiB": one.get("peak_mib"), "memory over peer's": over(one, best, "peak_mib")}
        reasons = dict.fromkeys(turn.get("failed", turn.get("skipped", "")) for turn in turns_of[what, contender])
        rows.append(row | {"or why not": "" if one else " ".join("; ".join(reasons).split())[:300]})
    return rows


def medians(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Of the turns that found something; {} where none did."""
    found = [turn["found"] | {"speed": speed(turn["found"])} for turn in turns if "found" in turn]
    keys = ("speed", "peak_mib")
    return {key: statistics.median(one[key] for one in found) for key in keys if found and key in found[0]}


def over(one: dict[str, float], other: dict[str, float], key: str) -> float | None:
    return one[key] / other[key] if key in one and key in other else None


def speed(found: dict[str, float]) -> float:
    """Rows a second of a loader; tokens a second of a training, whose every tenth step measures."""
    if "rows_per_s" in found:
        return found["rows_per_s"]
    return found["tokens_per_s"] * (1 - found.get("measuring_share", 0.0))


# Measurements, each in a process of its own -------------------------------------------------------


def peer_in_fp32(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from benchmarks.gpu.speed import peer
    from benchmarks.gpu.toys import computing_in

    with computing_in(torch.float32):
        return peer(job)


def our_loader(job: dict[str, Any]) -> dict[str, float]:
    """Rows a second in batches, from the page cache."""
    from benchmarks.gpu.toys import random_rows
    from train.runs.options import Run
    from train.trainer.mixture import batches

    old, new = (random_rows(LOADER_ROWS, LOADER_TOKENS, 49152, seed) for seed in (0, 4))
    steps = LOADER_ROWS // LOADER_BATCH
    options = Run(learning_rate=1.0, old_rate=OLD_RATE, steps=steps, batch_rows=LOADER_BATCH)
    return rate(lambda: sum(len(batch.tokens_BT1) for batch in batches(0, options, old, new)))


def peer_loader(job: dict[str, Any]) -> dict[str, float]:
    """The same, by datasets with NumPy as format."""
    import datasets
    import pyarrow as pa

    from benchmarks.gpu.toys import random_rows

    streams = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in (0, 4):
            path = Path(folder) / f"{seed}.arrow"
            random_rows(LOADER_ROWS, LOADER_TOKENS, 49152, seed, path)
            rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            with pa.ipc.new_stream(f"{path}s", rows.schema) as sink:
                sink.write_table(rows)
            streams.append(datasets.Dataset.from_file(f"{path}s").with_format("numpy"))
        mixed = datasets.interleave_datasets(streams, probabilities=[OLD_RATE, 1 - OLD_RATE], seed=0)
        taken = LOADER_ROWS // LOADER_BATCH * LOADER_BATCH

        def read() -> int:
            return sum(len(batch["tokens"]) for batch in mixed.select(range(taken)).iter(LOADER_BATCH))

        return rate(read)


def rate(read: Callable[[], int]) -> dict[str, float]:
    """Rows a second, at the second time: the first brings the file into the page cache."""
    read()
    started = time.perf_counter()
    return {"rows_per_s": read() / (time.perf_counter() - started)}


if __name__ == "__main__":
    main()
