"""Bits per byte of held-out rows, and the models it is measured on.

Bits per byte, and not perplexity, since it does not depend on the tokenizer; the ends of documents and
other special tokens are no text, so they don't count.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.backbone import compute, compute_dtype, load_backbone
from models.extend import ExtendError, Extension, extend, load_trainable
from models.loss import token_nll
from pipeline.cli import StageError
from pipeline.config import read
from pipeline.files import read_json
from train.distributed import add_over_ranks, rank, world
from train.options import Run
from train.rows import Rows


def score_rows(
    model: Any, rows: Rows, batch_rows: int, device: torch.device, limit: int | None = None
) -> dict[str, float]:
    """NLL of `limit` rows, evenly spread (None: all): `nats`, `tokens`, `bytes`, `nats_per_token` and `bpb`.

    METHOD, Measures: bpb = total nats / ln 2 / UTF-8 bytes. Special tokens are not scored. Ranks share the
    rows, and each returns the whole.
    """
    count = min(limit or len(rows), len(rows))
    chosen = np.arange(count) * len(rows) // count
    special = torch.tensor(rows.metadata["special_ids"], dtype=torch.int64, device=device)
    nats, tokens, size = 0.0, 0, 0
    with torch.no_grad(), compute(device, model):
        for first in range(0, count, batch_rows * world()):
            # All ranks compute as often, which sharded weights need; one that has no rows left repeats a row.
            indices = chosen[first + rank() * batch_rows :][:batch_rows]
            tokens_BT1 = torch.from_numpy(rows.tokens(indices if len(indices) else chosen[:1])).to(device)
            counted_BT = ~torch.isin(tokens_BT1[:, 1:], special) & (len(indices) > 0)
            nats += (token_nll(model, tokens_BT1) * counted_BT).double().sum().item()
            tokens += int(counted_BT.sum())
            size += int(rows.bytes(indices).sum())
    sums = torch.tensor([nats, tokens, size], dtype=torch.float64, device=device)
    add_over_ranks([sums])
    nats, tokens, size = sums[0].item(), int(sums[1]), int(sums[2])
    if not tokens or not size:
        raise StageError(f"{rows.path}: no text in {count} of its rows; nothing to measure")
    return {
        "bpb": nats / math.log(2) / size,
        "nats_per_token": nats / tokens,
        "nats": nats,
        "tokens": tokens,
        "bytes": size,
    }


def pick_device(name: str) -> torch.device:
    """The device of an option: auto is the GPU, if there is one. Raises StageError if cuda is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise StageError("device: cuda was asked for, but torch finds no GPU; set device to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_for(backbone: str, device: torch.device, stays: bool = False) -> Any:
    """The backbone in what `device` computes in, and there already, unless it `stays` on the CPU to be sharded.

    Raises StageError where it is no decoder that transformers loads.
    """
    try:
        attention = "sdpa" if device.type == "cuda" else "eager"
        model = load_backbone(backbone, dtype=compute_dtype(device), attention=attention)
        return model if stays else model.to(device)
    except (OSError, ValueError) as error:
        raise StageError(f"backbone {backbone}: cannot be loaded as a decoder: {error}") from None


def extend_for(model: Any, options: Run) -> Extension:
    """Extend the model in place as a run says. Raises StageError where its layers are not understood."""
    try:
        return extend(
            model,
            options.method,
            fraction=options.fraction,
            gate=options.gate,
            init=options.init,
            seed=options.seed,
        )
    except ExtendError as error:
        raise StageError(str(error)) from None


def load_run(backbone: str, run_folder: str | None, device: torch.device) -> Any:
    """The backbone, extended by the run in `run_folder` (None: as it is), all in bf16, ready for inference.

    Every method is so measured with the same arithmetic, as it would be deployed. Raises StageError where
    the run was not trained from this backbone or its folder is not a run's.
    """
    model = load_for(backbone, device)
    if run_folder is not None:
        folder = Path(run_folder)
        try:
            options = read(Run, read_json(folder / "run.json")["options"], f"{folder}/run.json")
            state = load_file(folder / "weights.safetensors")
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise StageError(f"{folder}: not a finished run ({error}); train it with `extend`") from None
        extend_for(model, options)
        try:
            load_trainable(model, state)
        except ExtendError as error:
            raise StageError(f"{folder}: does not fit the backbone {backbone}: {error}") from None
    # Weights alone, not model.to(): in bf16 the rotary frequencies would turn far positions wrong.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(compute_dtype(device))
    return model.requires_grad_(False).eval()
