"""What an extension changed in a backbone, beyond bits per byte: its next-token distributions, on which sites
text became harder, and how far the blocks' gates open on each domain, layer by layer.

Measured on a few hundred rows of a domain, spread evenly over it, with both models in memory.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backbone import compute
from models.extend import ExtendedFFN, decoder_layers, plain_ffn
from models.loss import log_probabilities, plain_head
from train.data.rows import Rows
from train.data.sites import site_places
from train.evaluation.intervals import document_kl
from train.runs.results import Change, Layer, Site

# Rows to measure on, and tokens where the rows are long.
ROWS, TOKENS = 256, 2**17
BATCH_ROWS = 16
# Logits in memory at once, of each model: 16 MB in fp32, whatever the vocabulary.
LOGITS = 2**22

# By layer, what the last forward pass left: means over the width of |g|, |g A| and |FFN(x)|, each of shape BT.
Seen = list[dict[str, Tensor]]


def measure_change(backbone: Any, model: Any, rows: Rows, device: torch.device) -> Change:
    """How `model`, an extension of `backbone`, differs from it on rows of one domain.

    kl: mean KL(backbone || model) of the next-token distributions, nats per token. agreement: share of the
    tokens whose most probable value is the same in both. bpb: the change in bits per byte. sites: tokens, bytes
    and change in bits per byte of each site (a row's bytes are shared out by its tokens). layers: see
    _activity(). documents: the KL by document, for its interval. Special tokens do not count.
    """
    count = max(1, min(ROWS, TOKENS // rows.row_tokens, len(rows)))
    chosen_N = np.arange(count) * len(rows) // count
    tokens_NT1 = rows.tokens(chosen_N)
    counted_NT = ~np.isin(tokens_NT1[:, 1:], rows.metadata["special_ids"])
    # A head that does more than a product gives the logits of whole rows: then one row at a time.
    batch = BATCH_ROWS if plain_head(backbone) is not None and plain_head(model) is not None else 1
    measured, sums = [], []
    with torch.no_grad(), watched(model) as seen:
        for first in range(0, count, batch):
            tokens_BT1 = torch.from_numpy(tokens_NT1[first : first + batch]).to(device)
            with compute(device, model):
                chunks_3C = [torch.stack(chunk).double() for chunk in _compare(backbone, model, tokens_BT1)]
            measured.append(torch.cat(chunks_3C, 1).cpu().numpy())
            sums.append(_sums(seen, counted_NT[first : first + batch], device))
    kl_NT, same_NT, nats_NT = np.concatenate(measured, 1).reshape(3, *counted_NT.shape)
    bytes_N, document_N, total = rows.bytes(chosen_N), rows.documents(chosen_N), int(counted_NT.sum())
    sites = None
    if "sites" in rows.metadata:
        place_NT = site_places(rows, tokens_NT1, document_N)
        sites = _by_site(rows.metadata["sites"]["names"], place_NT, counted_NT, nats_NT, bytes_N)
    return Change(
        rows=count,
        tokens=total,
        kl=float((kl_NT * counted_NT).sum() / total),
        agreement=float((same_NT * counted_NT).sum() / total),
        bpb=float((nats_NT * counted_NT).sum() / math.log(2) / bytes_N.sum()),
        layers=_activity(sums, total),
        sites=sites,
        documents=document_kl((kl_NT * counted_NT).sum(1), counted_NT.sum(1), document_N),
    )


def _compare(backbone: Any, model: Any, tokens_BT1: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """KL_C, whether the arg-max is the same, and how much the NLL grew, for a chunk of tokens at a time."""
    vocabulary = len(backbone.get_input_embeddings().weight)
    chunk = max(1, LOGITS // vocabulary)
    targets = tokens_BT1[:, 1:].reshape(-1, 1).split(chunk)
    both = (log_probabilities(each, tokens_BT1, chunk) for each in (backbone, model))
    for target_C1, before_CV, after_CV in zip(targets, *both, strict=True):
        kl_C = (before_CV.exp() * (before_CV - after_CV)).sum(-1)
        same_C = (before_CV.argmax(-1) == after_CV.argmax(-1)).float()
        yield kl_C, same_C, (before_CV - after_CV).gather(1, target_C1).squeeze(1)


def _by_site(
    names: list[str], place_NT: np.ndarray, counted_NT: np.ndarray, nats_NT: np.ndarray, bytes_N: np.ndarray
) -> list[Site]:
    """The change on each site that has tokens among the rows."""
    per_token_N = bytes_N / np.maximum(counted_NT.sum(1), 1)
    place = place_NT[counted_NT]
    tokens = np.bincount(place, minlength=len(names))
    nats = np.bincount(place, nats_NT[counted_NT], len(names))
    size = np.bincount(place, np.broadcast_to(per_token_N[:, None], counted_NT.shape)[counted_NT], len(names))
    return [
        Site(site=name, tokens=int(tokens[i]), bytes=round(size[i]), bpb=nats[i] / math.log(2) / size[i])
        for i, name in enumerate(names)
        if size[i]
    ]


# Gates --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def watched(model: Any) -> Iterator[Seen]:
    """While open, every forward pass leaves what the newest block of each layer did; empty without blocks."""
    seen: Seen = []
    handles = []
    extended = [layer.mlp for layer in decoder_layers(model) if isinstance(layer.mlp, ExtendedFFN)]
    for ffn in extended:
        left: dict[str, Tensor] = {}
        seen.append(left)
        handles.append(ffn.block.register_forward_hook(_keep(left, "block")))
        handles.append(plain_ffn(ffn).register_forward_hook(_keep(left, "ffn")))
        if ffn.block.gate is not None:
            handles.append(ffn.block.gate.register_forward_hook(_keep(left, "gate", ffn.block.opening)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(left: dict[str, Tensor], name: str, opening: Callable[[Tensor], Tensor] | None = None) -> Any:
    def hook(module: Any, inputs: Any, y_BTD: Tensor) -> None:
        left[name] = (opening(y_BTD) if opening else y_BTD).float().abs().mean(-1)

    return hook


def _sums(seen: Seen, counted_BT: np.ndarray, device: torch.device) -> np.ndarray:
    """By layer the sums of |g| (1 without a gate), of g != 0, |g A| and |FFN(x)|, over tokens from which a counted
    one is predicted."""
    mask_BT = torch.from_numpy(counted_BT).to(device)
    one = torch.ones((), device=device)
    sums = []
    for left in seen:
        parts = left.get("gate", one), left.get("gate", one) != 0, left["block"], left["ffn"]
        sums += [(part * mask_BT).double().sum() for part in parts]
    return torch.stack(sums).cpu().numpy().reshape(len(seen), -1) if sums else np.zeros((0, 4))


def _activity(sums: Sequence[np.ndarray], tokens: int) -> list[Layer]:
    """By layer, `gate`: the mean of |g|; `open`: the share of tokens whose g is not 0; `block`: the mean of |g A|
    over that of |FFN(x)|, of tokens and width."""
    return [Layer(gate=g / tokens, open=not_0 / tokens, block=out / ffn) for g, not_0, out, ffn in np.sum(sums, 0)]
