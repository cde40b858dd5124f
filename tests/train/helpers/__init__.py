"""Tiny models, tokenizers and rows files, made in milliseconds; and made-up results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from train.evaluation.intervals import document_sums
from train.runs.options import Pretrain, Run, Settle
from train.runs.record import Languages, PretrainingRecord, RunRecord, SettlingRecord
from train.runs.results import (
    Amounts,
    Change,
    Documents,
    Evaluation,
    Generation,
    Layer,
    Measure,
    Rates,
    Site,
    Speed,
    TaskScore,
    TextSpeed,
)

VOCABULARY = 64
LENGTH = 16
SEPARATOR = "<|endoftext|>"


def write_rows(path: Path, tokens_NT1: np.ndarray, domain: str = "en", batch: int = 7, **changes: Any) -> str:
    """A rows file like train/data/tokens.py writes it, of several record batches; two bytes a token."""
    count, width = tokens_NT1.shape
    about = {
        "row_tokens": width - 1,
        "vocabulary": VOCABULARY,
        "special_ids": [0],
        "tokenizer_sha256": "same",
        "documents": count,
        "tokens": int(tokens_NT1.size),
        "bytes": 2 * count * (width - 1),
        "domain": domain,
        "language": domain,
        "split": "train",
    } | changes
    columns = [("tokens", pa.list_(pa.uint16(), width)), ("bytes", pa.int32()), ("document", pa.int64())]
    schema = pa.schema(columns, metadata={"rows": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, count, batch):
            part = tokens_NT1[start : start + batch].astype(np.uint16)
            arrays = [
                pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), width),
                pa.array(np.full(len(part), 2 * (width - 1)), pa.int32()),
                pa.array(np.arange(start, start + len(part)), pa.int64()),
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    return str(path)


def language(step: int, rows: int, seed: int = 0) -> np.ndarray:
    """Rows of an easy language: each token is the one before plus `step`, now and then at random."""
    random = np.random.default_rng(seed)
    tokens = np.cumsum(np.full((rows, LENGTH + 1), step), 1) + random.integers(0, VOCABULARY, (rows, 1))
    return (
        np.where(random.random(tokens.shape) < 0.1, random.integers(1, VOCABULARY, tokens.shape), tokens) % 63 + 1
    )


def write_tokenizer(folder: Path) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({SEPARATOR: 0} | {str(i): i for i in range(1, VOCABULARY)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SEPARATOR)
    fast.save_pretrained(folder)
    return str(folder)


# Made-up results ----------------------------------------------------------------------------------


COSTS: dict[str, Any] = {
    "tokens": 1000,
    "seconds": 10.0,
    "cpu_seconds": 20.0,
    "peak_memory_mib": 400,
    "ranks": 1,
    "compute": "float32",
    "device": "cpu",
    "torch": "2.0",
    "versions": {"torch": "2.0"},
}


def run_record(method: str, seconds: float = 10.0, **options: Any) -> RunRecord:
    return RunRecord(
        options=Run(**{"learning_rate": 1e-2, "alpha": 1.0, "method": method} | options),
        method=method,
        backbone="backbone",
        languages=Languages(old=["en"], new="fr"),
        backbone_parameters=6000,
        extra_parameters=1200,
        true_fraction=0.2,
        width=8,
        alpha=1.0,
        **COSTS | {"seconds": seconds},
    )


def pretraining_record(steps: int) -> PretrainingRecord:
    return PretrainingRecord(
        options=Pretrain(learning_rate=1e-2, steps=steps), parameters=50, steps=steps, **COSTS
    )


def settling_record(steps: int) -> SettlingRecord:
    return SettlingRecord(options=Settle(learning_rate=1e-2, steps=steps), parameters=50, steps=steps, **COSTS)


def evaluation(
    run: str | None, text: str = "text", sites: list[Site] | None = None, documents: int = 0, **bpb: float
) -> Evaluation:
    """Of these bits per byte by domain, on so many scored_documents(); the change is the same on each."""
    layers = [Layer(gate=0.2, block=0.1), Layer(gate=0.4, block=0.3)]
    change = Change(rows=2, tokens=9, kl=0.5, agreement=0.75, bpb=0.1, layers=layers, sites=sites)
    domains = {
        domain: Measure(
            bpb=x,
            bpb_low=x,
            bpb_high=x,
            nats_per_token=1.0,
            nats=9.0,
            tokens=9,
            bytes=20,
            documents=scored_documents(x, documents, str(run)) if documents else None,
        )
        for domain, x in bpb.items()
    }
    texts = [Generation(prompt=text, continuation=text)]
    return Evaluation(run=run, domains=domains, change=dict.fromkeys(bpb, change), generations=texts)


def scored_documents(bpb: float, count: int, model: str) -> Documents:
    """Documents that are as hard for every model, to 0.3, and to 0.01 differently; together exactly `bpb`."""
    common, own = np.random.default_rng(count), np.random.default_rng(list(model.encode()))
    bytes_G = common.integers(500, 1500, count)
    bpb_G = common.normal(0, 0.3, count) + own.normal(0, 0.01, count)
    bpb_G += bpb - np.average(bpb_G, weights=bytes_G)
    return document_sums(bpb_G * bytes_G * np.log(2), bytes_G, np.arange(count))


def speed(backbone: float, run: float) -> Speed:
    """Of these tokens a second, reading and writing, on any text."""
    speeds = {name: Rates(scoring=x, writing=x) for name, x in (("backbone", backbone), ("run", run))}
    amounts = Amounts(scoring=9, writing=9)
    new = TextSpeed(tokens=amounts, speeds=speeds)
    return Speed(device="cpu", threads=1, tokens=amounts, speeds=speeds, new=new)


def task_score(headline: float, error: float | None, correct: dict[str, str] | None = None) -> TaskScore:
    return TaskScore(
        count=5,
        shots=0,
        metric="char",
        accuracy={"raw": 0.2, "char": headline},
        stderr={"raw": 0.1, "char": error},
        headline=headline,
        correct=correct or {"": "10100"},
        source="made up",
        fewer_shots=0,
        truncated=0,
    )
