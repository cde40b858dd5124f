"""The local losses of neutral blocks: l1 on old-domain tokens, and the cross-entropy of sigmoid gates.

They never become numbers that are added to the loss. Each block adds the gradient of its own loss in the backward
pass, through a function that is the identity in the forward pass (docs/method.md, Local losses as injected
gradients). A list of losses would not do: with activation checkpointing the forward pass runs twice, and would
fill it twice. Megatron's MoEAuxLossAutoScaler does the same. It follows that the language-model loss must be
differentiated without a scale of its own.

Shapes: B rows of a micro-batch, T tokens of a row, D width of the model; a digit is a dimension of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Statistics:
    """What blocks measure on one micro-batch, by layer; recomputing a layer overwrites, never adds.

    forward: three numbers, the sum of |out| on old tokens, and of the gate on old and on new tokens (1 a token
    without a gate). backward: two numbers, the squared norms of the language-model gradient and of the l1
    gradient with respect to out, on old tokens.
    """

    forward: dict[int, Tensor] = field(default_factory=dict)
    backward: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalLosses:
    """What blocks need for their local losses on one micro-batch; the fields are explained at Context.losses()."""

    old_B11: Tensor
    l1: Tensor | None
    cross_entropy: float
    statistics: Statistics | None


class Context:
    """Shared by the blocks of one extension. Outside of losses() `local` is None: no block has a local loss."""

    def __init__(self) -> None:
        self.local: LocalLosses | None = None

    @contextmanager
    def losses(
        self, old_B11: Tensor, l1: Tensor | None, cross_entropy: float, measure: bool = False
    ) -> Iterator[Statistics]:
        """Local losses for one micro-batch: around its forward and its backward pass, which may recompute layers.

        old_B11: 1 where the row is of the old domain, else 0. l1: alpha over the old-domain tokens of the whole
        optimizer step (0 where it has none), a tensor, since compiled code would be made anew for each number;
        None without l1 loss. cross_entropy: beta over all tokens of the step. Yields what the blocks measure;
        without `measure` it stays empty.
        """
        statistics = Statistics()
        self.local = LocalLosses(old_B11, l1, cross_entropy, statistics if measure else None)
        try:
            yield statistics
        finally:
            self.local = None


Record = Callable[[Tensor, Tensor], None]


class _AddGradient(torch.autograd.Function):
    """Identity, whose backward pass adds `gradient` and calls record(upstream gradient, gradient)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, record: Record | None) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.record = record
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        if ctx.record is not None:
            ctx.record(upstream[0], gradient)
        return upstream[0] + gradient, None, None


def add_l1(out_BTD: Tensor, local: LocalLosses, layer: int, layers: int) -> Tensor:
    """A block's output, in whose gradient that of its l1 loss is injected: alpha times the mean of |out| over old
    tokens, layers and width.

    docs/method.md, Loss (paper, section 3, "Adapter gating & local loss").
    """
    if local.l1 is None:
        return out_BTD
    coefficient_B11 = local.old_B11 * (local.l1 / (layers * out_BTD.shape[-1]))
    with torch.no_grad():
        gradient_BTD = out_BTD.sign().mul_(coefficient_B11.to(out_BTD.dtype))
    same_BTD: Tensor = _AddGradient.apply(out_BTD, gradient_BTD, _backward_record(local, layer))
    return same_BTD


def add_cross_entropy(logit_BT1: Tensor, local: LocalLosses, layers: int) -> Tensor:
    """A gate's logit, in whose gradient that of beta times its cross-entropy against 'is a new-domain token' is
    injected.

    docs/method.md, Loss (paper, section 3, "Adapter gating & local loss").
    """
    with torch.no_grad():
        error_BT1 = logit_BT1.float().sigmoid() - (1 - local.old_B11)
        gradient_BT1 = (error_BT1 * (local.cross_entropy / layers)).to(logit_BT1.dtype)
    same_BT1: Tensor = _AddGradient.apply(logit_BT1, gradient_BT1, None)
    return same_BT1


def _backward_record(local: LocalLosses, layer: int) -> Record | None:
    """Writes down the squared norms of both gradients when they meet, if statistics are wanted."""
    statistics = local.statistics
    if statistics is None:
        return None

    def record(upstream_BTD: Tensor, injected_BTD: Tensor) -> None:
        both_2BTD = torch.stack([upstream_BTD * local.old_B11, injected_BTD.float()])
        statistics.backward[layer] = both_2BTD.square().sum((1, 2, 3))

    return record


@torch.no_grad()
def record_forward(
    forward: dict[int, Tensor], layer: int, old_B11: Tensor, out_BTD: Tensor, g_BT1: Tensor | None
) -> None:
    """Writes down the forward statistics of a block; g_BT1: its gate, None without one."""
    g_BT1 = torch.ones_like(out_BTD[..., :1]) if g_BT1 is None else g_BT1
    gate_old, gate_all = (g_BT1.float() * old_B11).sum(), g_BT1.float().sum()
    forward[layer] = torch.stack([(out_BTD.float().abs() * old_B11).sum(), gate_old, gate_all - gate_old])
