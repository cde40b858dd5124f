"""Tiny models, tokenizers and rows files, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

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
