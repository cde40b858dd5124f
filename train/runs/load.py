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

from models.adapter import Addition, attach
from models.backbone import compute, compute_dtype, load_backbone
from models.extend import ExtendError, Extension, extend
from models.loss import token_nll
from pipeline.common.config import read
from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from train.data.rows import Rows
from train.distributed import add_over_ranks, rank, world
from train.runs.options import Run


def score_rows(
    model: Any, rows: Rows, batch_rows: int, device: torch.device, limit: int | None = None
) -> dict[str, float]:
    """NLL of `limit` rows, evenly spread (None: all): `nats`, `tokens`, `bytes`, `nats_per_token` and `bpb`.

    METHOD, Measures: bpb = total nats / ln 2 / UTF-8 bytes. Special tokens are not scored. `bpb_low` and
    `bpb_high` are its 95% interval (bootstrap()). Ranks share the rows, and each returns the whole.
    """
    count = min(limit or len(rows), len(rows))
    chosen = np.arange(count) * len(rows) // count
    special = torch.tensor(rows.metadata["special_ids"], dtype=torch.int64, device=device)
    nats, tokens, size = 0.0, 0, 0
    nats_N = torch.zeros(count, dtype=torch.float64, device=device)
    with torch.no_grad(), compute(device, model):
        for first in range(0, count, batch_rows * world()):
            # All ranks compute as often, which sharded weights need; one that has no rows left repeats a row.
            indices = chosen[first + rank() * batch_rows :][:batch_rows]
            tokens_BT1 = torch.from_numpy(rows.tokens(indices if len(indices) else chosen[:1])).to(device)
            counted_BT = ~torch.isin(tokens_BT1[:, 1:], special) & (len(indices) > 0)
            nll_BT = (token_nll(model, tokens_BT1) * counted_BT).double()
            nats += nll_BT.sum().item()
            if len(indices):
                nats_N[first + rank() * batch_rows :][: len(indices)] = nll_BT.sum(1)
            tokens += int(counted_BT.sum())
            size += int(rows.bytes(indices).sum())
    sums = torch.tensor([nats, tokens, size], dtype=torch.float64, device=device)
    add_over_ranks([sums, nats_N])
    nats, tokens, size = sums[0].item(), int(sums[1]), int(sums[2])
    if not tokens or not size:
        raise StageError(f"{rows.path}: no text in {count} of its rows; nothing to measure")
    low, high = bootstrap(nats_N.cpu().numpy(), rows.bytes(chosen), rows.documents(chosen))
    return {
        "bpb": nats / math.log(2) / size,
        "bpb_low": low,
        "bpb_high": high,
        "nats_per_token": nats / tokens,
        "nats": nats,
        "tokens": tokens,
        "bytes": size,
    }


def bootstrap(
    nats_N: np.ndarray, bytes_N: np.ndarray, document_N: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """A 95% interval of bits per byte: percentiles over documents drawn with replacement.

    What is drawn are the rows that begin in the same document, together: a long document's rows are not
    independent, while rows of several short ones are. With one document there is no interval: both are bpb.
    """
    _, owner_N = np.unique(document_N, return_inverse=True)
    nats, size = (np.bincount(owner_N, weights=values) for values in (nats_N, bytes_N))
    random = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = random.integers(0, len(nats), len(nats))
        found.append(nats[drawn].sum() / max(size[drawn].sum(), 1))
    low, high = np.percentile(found, [2.5, 97.5]) / math.log(2)
    return float(low), float(high)


def pick_device(name: str) -> torch.device:
    """The device of an option: auto is the GPU, if there is one. Raises StageError if cuda is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise StageError("device: cuda was asked for, but torch finds no GPU; set device to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_for(backbone: str, device: torch.device, stays: bool = False, dtype: torch.dtype | None = None) -> Any:
    """The backbone in `dtype`, and on `device` already, unless it `stays` on the CPU to be sharded.

    dtype: None is what `device` computes in. Raises StageError where it is no decoder that transformers loads.
    """
    try:
        attention = "sdpa" if device.type == "cuda" else "eager"
        model = load_backbone(backbone, dtype=dtype or compute_dtype(device), attention=attention)
        return model if stays else model.to(device)
    except (OSError, ValueError) as error:
        raise StageError(f"backbone {backbone}: cannot be loaded as a decoder: {error}") from None


def extend_for(model: Any, options: Run) -> Extension:
    """Extend the model in place as a run says. Raises StageError where its layers are not understood."""
    try:
        return extend(model, **how(options))
    except ExtendError as error:
        raise StageError(str(error)) from None


def how(options: Run) -> dict[str, Any]:
    """The arguments of models.extend.extend() that a run's options give."""
    names = ("method", "fraction", "gate", "gate_bias", "init", "placement", "seed")
    return {name: getattr(options, name) for name in names}


def load_run(backbone: str, run_folder: str | None, device: torch.device, stays: bool = False) -> Any:
    """The backbone, extended by the run in `run_folder` (None: as it is), all in what `device` computes in.

    Every method is so measured with the same arithmetic, as it would be deployed. What the run goes on from
    is added before it. `stays` as in load_for(). Raises StageError where the run was not trained from this
    backbone or its folder is not a run's.
    """
    model = load_for(backbone, device, stays)
    try:
        attach(model, additions(run_folder) if run_folder is not None else [], compute_dtype(device))
    except ExtendError as error:
        raise StageError(f"{run_folder}: does not fit the backbone {backbone}: {error}") from None
    return model


def additions(run_folder: str | Path) -> list[Addition]:
    """What the run added, and before it what the runs added that it goes on from.

    Raises StageError where a folder is not a finished run's.
    """
    folder = Path(run_folder)
    try:
        run = read_json(folder / "run.json")
        options = read(Run, run["options"], f"{folder}/run.json")
        state = load_file(folder / "weights.safetensors")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise StageError(f"{folder}: not a finished run ({error}); train it with `extend`") from None
    training = {key: value for key, value in run.items() if key not in ("languages", "backbone")}
    own = Addition(how(options), state, {"languages": run.get("languages"), "training": training})
    return [*(additions(base_folder(folder, options.base)) if options.base else []), own]


def base_folder(folder: Path, base: str) -> Path:
    """Where the run lies that another one goes on from: where it lay then, or beside the other, if moved."""
    return Path(base) if Path(base).is_dir() else folder.parent / Path(base).name
