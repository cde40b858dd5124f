"""The local losses of neutral blocks: l1 on old-domain tokens, and the cross-entropy of sigmoid gates.

They never become numbers that are added to the loss. Each block adds the gradient of its own loss in the backward
pass, through a function that is the identity in the forward pass (docs/method.md, Local losses as injected
gradients). A list of losses would not do: with activation checkpointing the forward pass runs twice, and would
fill it twice. Megatron's MoEAuxLossAutoScaler does the same. It follows that the language-model loss must be
differentiated without a scale of its own.

Shapes: B rows of a micro-batch, T tokens of a row, D width of the model; a digit is a dimension of that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LocalLosses:
    """What blocks need for their local losses on one micro-batch; the fields are explained at Context.losses()."""

    old_B11: Tensor
    l1: Tensor | None
    cross_entropy: float
    probe_5: Tensor | None


class Context:
    """Shared by the blocks of one extension. Outside of losses() `local` is None: no block has a local loss."""

    def __init__(self) -> None:
        self.local: LocalLosses | None = None

    @contextmanager
    def losses(
        self, old_B11: Tensor, l1: Tensor | None, cross_entropy: float, probe_5: Tensor | None = None
    ) -> Iterator[None]:
        """Local losses for one micro-batch: around its forward and its backward pass, which may recompute layers.

        old_B11: 1 where the row is of the old domain, else 0. l1: alpha over the old-domain tokens of the whole
        optimizer step (0 where it has none), a tensor, since compiled code would be made anew for each number;
        None without l1 loss. cross_entropy: beta over all tokens of the step. probe_5: what make_probe() made, in
        whose gradient the backward pass leaves what the blocks measure; None: nothing is measured.
        """
        self.local = LocalLosses(old_B11, l1, cross_entropy, probe_5)
        try:
            yield
        finally:
            self.local = None


def make_probe(device: torch.device) -> Tensor:
    """probe_5, zeros whose gradient is what the blocks measure, added up over layers and micro-batches.

    So a layer counts once, though recomputing runs its forward pass twice, and compiled code needs neither a list
    of layers nor the number of one. The five are sums over layers: of |out| on old tokens, of the gate on old and
    on new tokens (1 a token without a gate), and the squared norms of the l1 gradient and of the language-model
    gradient with respect to out, on old tokens.
    """
    return torch.zeros(5, device=device, requires_grad=True)


class _AddGradient(torch.autograd.Function):
    """Identity, whose backward pass adds `gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] + gradient, None


class _Measure(torch.autograd.Function):
    """Identity, whose backward pass gives the probe its gradient: known_4, and the squared norm on old tokens of
    the gradient that comes from above."""

    @staticmethod
    def forward(ctx: Any, out_BTD: Tensor, old_B11: Tensor, known_4: Tensor, probe_5: Tensor) -> Tensor:
        ctx.save_for_backward(old_B11, known_4)
        return out_BTD.view_as(out_BTD)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, Tensor]:
        old_B11, known_4 = ctx.saved_tensors
        squares = (upstream[0].float() * old_B11).square().sum()
        return upstream[0], None, None, torch.cat([known_4, squares.view(1)])


def add_l1(out_BTD: Tensor, local: LocalLosses, layers: int) -> Tensor:
    """A block's output, in whose gradient that of its l1 loss is injected: alpha times the mean of |out| over old
    tokens, layers and width.

    docs/method.md, Loss (paper, section 3, "Adapter gating & local loss").
    """
    if local.l1 is None:
        return out_BTD
    same_BTD: Tensor = _AddGradient.apply(out_BTD, _l1_gradient(out_BTD, local.old_B11, local.l1, layers))
    return same_BTD


@torch.no_grad()
def _l1_gradient(out_BTD: Tensor, old_B11: Tensor, l1: Tensor, layers: int) -> Tensor:
    coefficient_B11 = old_B11 * (l1 / (layers * out_BTD.shape[-1]))
    return out_BTD.sign().mul_(coefficient_B11.to(out_BTD.dtype))


def add_cross_entropy(logit_BT1: Tensor, local: LocalLosses, layers: int) -> Tensor:
    """A gate's logit, in whose gradient that of beta times its cross-entropy against 'is a new-domain token' is
    injected.

    docs/method.md, Loss (paper, section 3, "Adapter gating & local loss").
    """
    with torch.no_grad():
        error_BT1 = logit_BT1.float().sigmoid() - (1 - local.old_B11)
        gradient_BT1 = (error_BT1 * (local.cross_entropy / layers)).to(logit_BT1.dtype)
    same_BT1: Tensor = _AddGradient.apply(logit_BT1, gradient_BT1)
    return same_BT1


def measure(out_BTD: Tensor, g_BT1: Tensor | None, local: LocalLosses, layers: int) -> Tensor:
    """A block's output, with which what make_probe() explains is measured; g_BT1: its gate, None without one."""
    if local.probe_5 is None:
        return out_BTD
    with torch.no_grad():
        g_BT1 = torch.ones_like(out_BTD[..., :1]) if g_BT1 is None else g_BT1
        sums = [
            (out_BTD.float().abs() * local.old_B11).sum(),
            (g_BT1.float() * local.old_B11).sum(),
            (g_BT1.float() * (1 - local.old_B11)).sum(),
        ]
        if local.l1 is not None:
            sums.append(_l1_gradient(out_BTD, local.old_B11, local.l1, layers).float().square().sum())
        else:
            sums.append(torch.zeros_like(sums[0]))
    same_BTD: Tensor = _Measure.apply(out_BTD, local.old_B11, torch.stack(sums), local.probe_5)
    return same_BTD
