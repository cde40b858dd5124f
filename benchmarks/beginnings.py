"""`python -m benchmarks.beginnings --backbone FOLDER --texts FILE.jsonl`: bits per byte by what rows begin with.

The same documents as one stream, cut into rows in several ways: as `tokenize` does it, the same stream cut
anywhere, and behind the tokenizer's beginning token even where it puts none. What is scored is the same text.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.data.packing import write_rows
from train.data.rows import open_rows
from train.data.special import unscored_ids
from train.data.tokens import beginning, encode, open_tokenizer, separators, token_bytes
from train.evaluation.bits_per_byte import score_rows
from train.runs.load import load_run, measuring_device

Variant = tuple[list[int], list[int], list[int]]


def variants(tokenizer: Any) -> dict[str, Variant]:
    """What rows begin with, and what stands before and behind each document."""
    before, after = separators(tokenizer)
    found = {"as tokenize does": (beginning(tokenizer), before, after), "cut anywhere": ([], before, after)}
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and not beginning(tokenizer):
        ends = [eos] if eos not in (None, bos) else []
        found["documents in beginning and end, cut anywhere"] = ([], [bos], ends)
        found["a beginning before rows and documents"] = ([bos], [bos], ends)
    return {name: each for i, (name, each) in enumerate(found.items()) if each not in list(found.values())[:i]}


def measure(
    model: Any, tokenizer: Any, texts: list[str], row_tokens: int, variant: Variant, device: torch.device
) -> str:
    """Bits per byte with their interval, and the share of tokens with no separator before them in their row."""
    begins, before, after = variant
    ids, sizes, owners = [], [], []
    for document, (text, (tokens, spans)) in enumerate(zip(texts, encode(tokenizer, texts), strict=True)):
        ids += [*before, *tokens, *after]
        sizes += [0] * len(before) + token_bytes(text, spans) + [0] * len(after)
        owners += [document] * (len(ids) - len(owners))
    about = {
        "row_tokens": row_tokens, "vocabulary": max(tokenizer.get_vocab().values()) + 1, "tokenizer_sha256": "",
        "special_ids": sorted(unscored_ids(tokenizer).union(before, after)), "beginning": begins, "domain": "",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/rows.arrow"
        kind = np.uint16 if about["vocabulary"] <= 2**16 else np.uint32
        write_rows(
            path, np.array(ids, kind), np.array(sizes, np.uint32), np.array(owners), row_tokens, before[0], about
        )
        rows = open_rows(path)
    tokens_NT1 = rows.tokens(np.arange(len(rows)))
    unseen = (np.cumsum(np.isin(tokens_NT1, before), 1) == 0)[:, :-1]
    scored = ~np.isin(tokens_NT1[:, 1:], about["special_ids"])
    found = score_rows(model, rows, max(1, 4096 // row_tokens), device)
    bpb = f"{found['bpb']:.4f} ({found['bpb_low']:.3f} to {found['bpb_high']:.3f})"
    return f"{bpb}, {found['tokens']} tokens, {(unseen & scored).sum() / scored.sum():.0%} behind no separator"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="folder of any model")
    parser.add_argument("--texts", required=True, help="a .jsonl with a `text` a document")
    parser.add_argument("--documents", type=int, help="the first so many (default: all)")
    parser.add_argument("--row-tokens", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    texts = [json.loads(line)["text"] for line in Path(given.texts).read_text(encoding="utf-8").splitlines()]
    device, tokenizer = measuring_device("auto"), open_tokenizer(given.backbone)
    model = load_run(given.backbone, None, device)
    for row_tokens in given.row_tokens:
        for name, variant in variants(tokenizer).items():
            signs = [tokenizer.convert_ids_to_tokens(each) for each in variant]
            text = measure(model, tokenizer, texts[: given.documents], row_tokens, variant, device)
            print(f"rows of {row_tokens}, {name} {signs}: {text}", flush=True)


if __name__ == "__main__":
    main()
