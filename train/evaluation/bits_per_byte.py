"""Bits per byte of held-out rows.

Bits per byte, and not perplexity, since it does not depend on the tokenizer; the ends of documents and
other special tokens are no text, so they don't count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.backbone import compute
from models.loss import token_nll
from pipeline.common.errors import StageError
from train.data.rows import Rows
from train.distributed import add_over_ranks, rank, world
from train.evaluation.intervals import bpb_interval, document_sums


def score_rows(
    model: Any,
    rows: Rows,
    batch_rows: int,
    device: torch.device,
    limit: int | None = None,
    scored: Callable[[int], object] = lambda rows: None,
) -> dict[str, Any]:
    """NLL of `limit` rows, evenly spread (None: all): the fields of a Measure.

    docs/method.md, Bits per byte: bpb = total nats / ln 2 / UTF-8 bytes. Special tokens are not scored. Ranks
    share the rows, and each returns the whole. `scored` is told of each batch how many rows it had.
    """
    count = rows_to_score(rows, limit)
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
            scored(min(batch_rows * world(), count - first))
    sums = torch.tensor([nats, tokens, size], dtype=torch.float64, device=device)
    add_over_ranks([sums, nats_N])
    nats, tokens, size = sums[0].item(), int(sums[1]), int(sums[2])
    if not tokens or not size:
        raise StageError(f"{rows.path}: no text in {count} of its rows; nothing to measure")
    documents = document_sums(nats_N.cpu().numpy(), rows.bytes(chosen), rows.documents(chosen))
    low, high = bpb_interval(documents)
    return {
        "bpb": nats / math.log(2) / size,
        "bpb_low": low,
        "bpb_high": high,
        "nats_per_token": nats / tokens,
        "nats": nats,
        "tokens": tokens,
        "bytes": size,
        "documents": documents,
    }


def rows_to_score(rows: Rows, limit: int | None = None) -> int:
    """How many rows score_rows() scores."""
    return min(limit or len(rows), len(rows))
