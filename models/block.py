"""The neutral block: a gated adapter that runs in parallel with the FFN of one decoder layer.

The local losses never become numbers that are added to the loss. Each block adds the gradient of its own loss
in the backward pass, through a function that is the identity in the forward pass (docs/method.md, Local losses
as injected gradients). A list of losses would not do: with activation checkpointing the forward pass runs twice,
and would fill it twice. Megatron's MoEAuxLossAutoScaler does the same. It follows that the language-model loss
must be differentiated without a scale of its own.

Shapes: B rows of a micro-batch, T tokens of a row, D width of the model; a digit is a dimension of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

GATES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
    "relu": functional.relu,
}
INITS = ("low_variance", "he")


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


class NeutralBlock(nn.Module):
    """out = g(x) A(x), A(x) = W_down(act(W_gate x) * W_up x), g(x) = phi(w.x + b).

    docs/method.md, Block (paper, section 3 and Figure 2). Takes the FFN's normed input x_BTD and returns out_BTD,
    to be added to the FFN's output. At step 0 out is exactly zero, since W_down is. A gate sees its own token
    only, so that cached generation stays exact. `bias`: whether the gate has its b. Raises ValueError for an
    unknown gate or init.
    """

    def __init__(
        self,
        size: int,
        width: int,
        layer: int,
        layers: int,
        activation: Callable[[Tensor], Tensor],
        gate: str,
        init: str,
        context: Context,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if gate not in GATES or init not in INITS:
            raise ValueError(f"no gate {gate!r} or init {init!r}; gates: {list(GATES)}, inits: {list(INITS)}")
        self.layer, self.layers, self.activation, self.context = layer, layers, activation, context
        self.gate_name, self.phi, self.is_sigmoid = gate, GATES[gate], gate == "sigmoid"
        self.gate_proj = nn.Linear(size, width, bias=False)
        self.up_proj = nn.Linear(size, width, bias=False)
        self.down_proj = nn.Linear(width, size, bias=False)
        self.gate = nn.Linear(size, 1, bias=bias) if self.phi else None
        self._initialise(1 / (size * layers) if init == "low_variance" else 2 / size)

    def _initialise(self, variance: float) -> None:
        for linear in (self.gate_proj, self.up_proj, self.gate):
            if linear is not None:
                nn.init.normal_(linear.weight, std=variance**0.5)
        nn.init.zeros_(self.down_proj.weight)
        if self.gate is not None and self.gate.bias is not None:
            nn.init.zeros_(self.gate.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        local = self.context.local
        out_BTD: Tensor = self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        g_BT1 = None
        if self.gate is not None and self.phi is not None:
            logit_BT1 = self.gate(x_BTD)
            if local is not None and self.is_sigmoid and local.cross_entropy:
                logit_BT1 = self._add_cross_entropy(logit_BT1, local)
            g_BT1 = self.phi(logit_BT1)
            out_BTD = g_BT1 * out_BTD
        if local is None:
            return out_BTD
        if local.statistics is not None:
            _record_forward(local.statistics.forward, self.layer, local.old_B11, out_BTD, g_BT1)
        return out_BTD if local.l1 is None else self._add_l1(out_BTD, local, local.l1)

    def _add_l1(self, out_BTD: Tensor, local: LocalLosses, l1: Tensor) -> Tensor:
        """Inject the gradient of alpha times the mean of |out| over old tokens, layers and width.

        docs/method.md, Loss (paper, section 3, "Adapter gating & local loss").
        """
        coefficient_B11 = local.old_B11 * (l1 / (self.layers * out_BTD.shape[-1]))
        with torch.no_grad():
            gradient_BTD = out_BTD.sign().mul_(coefficient_B11.to(out_BTD.dtype))
        same_BTD: Tensor = _AddGradient.apply(out_BTD, gradient_BTD, self._backward_record(local))
        return same_BTD

    def _backward_record(self, local: LocalLosses) -> Record | None:
        """Writes down the squared norms of both gradients when they meet, if statistics are wanted."""
        statistics = local.statistics
        if statistics is None:
            return None

        def record(upstream_BTD: Tensor, injected_BTD: Tensor) -> None:
            both_2BTD = torch.stack([upstream_BTD * local.old_B11, injected_BTD.float()])
            statistics.backward[self.layer] = both_2BTD.square().sum((1, 2, 3))

        return record

    def _add_cross_entropy(self, logit_BT1: Tensor, local: LocalLosses) -> Tensor:
        """Inject the gradient of beta times the gate's cross-entropy against 'is a new-domain token'.

        docs/method.md, Loss (paper, section 3, "Adapter gating & local loss").
        """
        with torch.no_grad():
            error_BT1 = logit_BT1.float().sigmoid() - (1 - local.old_B11)
            gradient_BT1 = (error_BT1 * (local.cross_entropy / self.layers)).to(logit_BT1.dtype)
        same_BT1: Tensor = _AddGradient.apply(logit_BT1, gradient_BT1, None)
        return same_BT1


@torch.no_grad()
def _record_forward(
    forward: dict[int, Tensor], layer: int, old_B11: Tensor, out_BTD: Tensor, g_BT1: Tensor | None
) -> None:
    g_BT1 = torch.ones_like(out_BTD[..., :1]) if g_BT1 is None else g_BT1
    gate_old, gate_all = (g_BT1.float() * old_B11).sum(), g_BT1.float().sum()
    forward[layer] = torch.stack([(out_BTD.float().abs() * old_B11).sum(), gate_old, gate_all - gate_old])
