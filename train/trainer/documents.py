"""Keeping the documents of a row apart, as `mask_documents` asks: whether a backbone does is tried first."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from models.attention import SDPA, attend_by_documents, document_bounds, runs_on
from models.backbone import compute
from models.loss import sum_nll
from pipeline.common.errors import StageError

log = logging.getLogger(__name__)

CURE = "set it to false, or take another backbone"
TOKENS, STARTS = 16, (5, 11)  # of the rows that are tried, and where the second document of each begins
STRIDE = 7919  # between the tokens of that row, so that they differ
START = 5  # where the second document begins of a row by which kernels are tried
# Two kernels of bf16 differ by 0.0002 in the loss and by 0.002 in the direction of its gradient (SmolLM2-135M, 30
# layers, T = 512); a scale that is 5% off changes the direction by 0.03, a window of 7 T / 8 by 0.24.
ROUNDING = 0.01


def keep_documents_apart(model: Any, device: torch.device, row_tokens: int) -> None:
    """Let the model attend within documents by kernels made for that, where there are some and they are right.

    Elsewhere transformers makes a mask of T x T numbers for each row. Raises StageError as the check does.
    """
    check_documents_apart(model, device)
    if not runs_on(device):
        return
    problem = f"a {type(model).__name__} attends in a way of its own"
    if attend_by_documents(model):
        problem = differs_from_mask(model, device, row_tokens)
        if problem:
            model.set_attn_implementation(SDPA)
    if problem:
        log.warning("mask_documents: masks of T x T numbers, which are slow: %s", problem)


def check_documents_apart(model: Any, device: torch.device) -> None:
    """Raises StageError unless other tokens in the first document of a row leave the loss of the second as it is.

    transformers takes positions that begin anew for the border of a document. Layers that carry a state along the
    row (recurrent, convolutional) do not, nor does attention that knows no positions (ALiBi).
    """
    place_T, start_B1 = torch.arange(TOKENS, device=device), torch.tensor(STARTS, device=device)[:, None]
    is_later_BT = place_T >= start_B1
    position_BT = torch.where(is_later_BT, place_T - start_B1, place_T)
    vocabulary = len(model.get_input_embeddings().weight)
    tokens_BT1 = torch.arange(len(STARTS) * (TOKENS + 1), device=device).view(len(STARTS), -1) % vocabulary
    others_BT1 = tokens_BT1.clone()
    others_BT1[:, :-1][~is_later_BT] = others_BT1[:, :-1][~is_later_BT].add(1) % vocabulary
    try:
        with torch.no_grad(), compute(device, model):
            one, other = (
                sum_nll(model, rows_BT1, is_later_BT.float(), position_BT) for rows_BT1 in (tokens_BT1, others_BT1)
            )
    except (TypeError, ValueError, RuntimeError) as error:
        raise StageError(
            f"mask_documents: a {type(model).__name__} takes no positions ({error}); {CURE}"
        ) from None
    if not torch.equal(one, other):
        raise StageError(
            f"mask_documents: a {type(model).__name__} does not keep the documents of a row apart; {CURE}"
        )


def differs_from_mask(model: Any, device: torch.device, row_tokens: int) -> str:
    """What is wrong with attention by the bounds of documents, held against a mask; empty if nothing is.

    Compared are the loss of a row's second document and its gradient by the embeddings: windows, scales and caps
    that are left out hardly show in the loss. The row is as long as in training, for the sake of windows.
    """
    start = min(START, row_tokens // 2)
    bounds_111S = torch.from_numpy(document_bounds(np.arange(row_tokens)[None] == start)).to(device)
    try:
        loss, gradient_TD = try_row(model, device, row_tokens, start)
        ours, our_gradient_TD = try_row(model, device, row_tokens, start, bounds_111S)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"a {type(model).__name__} does not attend without them ({str(error).partition(chr(10))[0]})"
    if our_gradient_TD[:start].any():
        return "without them a document sees the one before it"
    cosine = cosine_similarity(gradient_TD.flatten(), our_gradient_TD.flatten(), dim=0).item()
    if abs(ours / loss - 1) < ROUNDING and 1 - cosine < ROUNDING:
        return ""
    return f"without them the loss is {ours:.2f} and not {loss:.2f}; the cosine of its gradients is {cosine:.3f}"


def try_row(
    model: Any, device: torch.device, row_tokens: int, start: int, bounds_111S: Tensor | None = None
) -> tuple[float, Tensor]:
    """The loss of a row's second document, which begins at `start`, and its gradient_TD by the embeddings."""
    place_1T, table = torch.arange(row_tokens, device=device)[None], model.get_input_embeddings()
    tokens_1T1 = torch.arange(row_tokens + 1, device=device)[None] * STRIDE % len(table.weight)
    is_second_1T = place_1T >= start
    position_1T = torch.where(is_second_1T, place_1T - start, place_1T)
    found: list[Tensor] = []

    def cut(_module: Any, _given: Any, out_1TD: Tensor) -> Tensor:
        found.append(out_1TD.detach().requires_grad_())
        return found[0]

    hook = table.register_forward_hook(cut)
    try:
        with compute(device, model):
            loss = sum_nll(model, tokens_1T1, is_second_1T.float(), position_1T, bounds_111S)
    finally:
        hook.remove()
    (gradient_1TD,) = torch.autograd.grad(loss, found)
    return loss.item(), gradient_1TD[0].double()
