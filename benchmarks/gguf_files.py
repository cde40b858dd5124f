"""`python -m benchmarks.gguf_files`: GGUF files of a run and of its backbone in llama.cpp, beside transformers.

Of each kind of file: size, how far log-probabilities of held-out tokens are from transformers in fp32, bits
per byte by domain, and tokens a second of reading a row and of writing. The rows are read token by token, as they
would be written. Needs `pip install -e '.[test]'`, for llama.cpp's runtime and its quantiser.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.llama_cpp import LlamaCpp, loaded
from benchmarks.report import write
from models.backbone import load_backbone
from pipeline.common.cli import start_logging
from train.data.rows import open_rows
from train.runs.export import read_extended, write_gguf_files
from train.runs.load import load_run

log = logging.getLogger(__name__)
WRITTEN = 64  # tokens that are written behind a row's first 32
Rows = dict[str, tuple[list[list[int]], int]]  # of each domain its rows of tokens, and their bytes of text


def take_rows(files: list[str], count: int) -> Rows:
    """The first rows of files given as DOMAIN=PATH."""
    found = {}
    for domain, path in (file.split("=", 1) for file in files):
        rows = open_rows(path)
        wanted = np.arange(min(count, len(rows)))
        found[domain] = (rows.tokens(wanted).tolist(), int(rows.bytes(wanted).sum()))
    return found


@torch.no_grad()
def in_transformers(model: Any, rows: Rows) -> dict[str, list[float]]:
    """Log-probabilities of each token but the first, row after row, by domain."""
    found = {}
    for domain, (tokens_NT, _) in rows.items():
        tokens_BT = torch.tensor(tokens_NT)
        logits_BTV = model(tokens_BT).logits.float()
        log_probs_BT = logits_BTV[:, :-1].log_softmax(-1).gather(-1, tokens_BT[:, 1:, None])[..., 0]
        found[domain] = log_probs_BT.flatten().tolist()
    return found


def in_llama_cpp(model: LlamaCpp, rows: Rows) -> dict[str, list[float]]:
    """The same of a GGUF file."""
    return {
        domain: [value for tokens in tokens_NT for value in model.log_probs_of(tokens)]
        for domain, (tokens_NT, _) in rows.items()
    }


@torch.no_grad()
def speed_of_transformers(model: Any, row: list[int]) -> tuple[float, float]:
    """Tokens a second of reading a row and of writing, the faster of two."""
    tokens_BT = torch.tensor([row])
    how = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False, "pad_token_id": 0}
    rates = []
    for _ in range(2):
        start = time.perf_counter()
        model(tokens_BT)
        read = time.perf_counter()
        model.generate(tokens_BT[:, :32], attention_mask=torch.ones(1, 32), **how)
        rates.append((len(row) / (read - start), WRITTEN / (time.perf_counter() - read)))
    return max(x for x, _ in rates), max(x for _, x in rates)


def line(name: str, kind: str, size: int, rows: Rows, found: Any, truth: Any, speed: tuple[float, float]) -> Any:
    """A row of the table."""
    differences = [abs(a - b) for domain in rows for a, b in zip(found[domain], truth[domain], strict=True)]
    bits = {domain: -sum(found[domain]) / math.log(2) / rows[domain][1] for domain in rows}
    return {
        "model": name,
        "kind": kind,
        "MB": size / 1e6,
        "largest difference": max(differences),
        "mean difference": sum(differences) / len(differences),
        **{f"bits per byte, {domain}": value for domain, value in bits.items()},
        "reading, tokens/s": speed[0],
        "writing, tokens/s": speed[1],
    }


def measure(name: str, backbone: str, run: str | None, options: argparse.Namespace, rows: Rows) -> list[Any]:
    """A line of transformers in fp32 and in bf16, and one of each kind of file."""
    first = next(iter(rows.values()))[0][0]
    model = load_run(backbone, run, torch.device("cpu")) if run else load_backbone(backbone)
    size = 2 * sum(weight.numel() for weight in model.parameters())
    log.info("%s: transformers", name)
    speed = speed_of_transformers(model, first)
    coarse = in_transformers(model, rows)
    model.float()
    truth = in_transformers(model, rows)
    lines = [
        line(name, "transformers, fp32", 2 * size, rows, truth, truth, speed_of_transformers(model, first)),
        line(name, "transformers, bf16", size, rows, coarse, truth, speed),
    ]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        extended = read_extended(run or options.run, backbone)
        for kind in options.kinds:
            log.info("%s: %s", name, kind)
            fresh = load_run(backbone, run, torch.device("cpu")) if run else load_backbone(backbone)
            (path,) = write_gguf_files([kind], fresh, extended, Path(folder))
            with loaded(path, context=1024, threads=options.threads) as served:
                found = in_llama_cpp(served, rows)
                speeds = [served.tokens_per_second(first[:32], WRITTEN) for _ in range(2)]
                reads = [served.tokens_per_second(first, 1)[0] for _ in range(2)]
            rates = (max(reads), max(rate for _, rate in speeds))
            lines.append(line(name, kind, path.stat().st_size, rows, found, truth, rates))
            path.unlink()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="folder of the backbone")
    parser.add_argument("--run", required=True, help="folder of a run on it whose gates are sigmoids without bias")
    parser.add_argument("--rows", nargs="+", required=True, help="held-out rows, as DOMAIN=PATH")
    parser.add_argument("--count", type=int, default=4, help="rows of each domain")
    parser.add_argument("--kinds", nargs="+", default=["f32", "bf16", "q8_0", "q4_k_m"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", help="where the files lie meanwhile")
    parser.add_argument("--output", default="results/benchmarks/gguf_files", help="path without .md and .json")
    options = parser.parse_args()
    start_logging()
    torch.set_num_threads(options.threads)
    rows = take_rows(options.rows, options.count)
    lines = measure("backbone", options.backbone, None, options, rows)
    lines += measure(Path(options.run).name, options.backbone, options.run, options, rows)
    tokens = sum(len(row) - 1 for tokens_NT, _ in rows.values() for row in tokens_NT)
    note = f"{tokens:,} tokens; differences are of log-probabilities, in nats; {options.threads} threads."
    write(options.output, "GGUF files in llama.cpp, beside transformers", lines, [note])
    print(Path(f"{options.output}.md").read_text())


if __name__ == "__main__":
    main()
