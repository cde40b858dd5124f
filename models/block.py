"""The neutral block: a gated adapter that runs in parallel with the FFN of one decoder layer.

Shapes: B rows of a micro-batch, T tokens of a row, D width of the model; a digit is a dimension of that size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.local_losses import Context, add_cross_entropy, add_l1, measure
from models.modeling_neutral import Block, beyond, of_open, skips_closed

GATES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
    "relu": functional.relu,
}
INITS = ("low_variance", "he")


class NeutralBlock(nn.Module):
    """out = g(x) A(x), A(x) = W_down(act(W_gate x) * W_up x), g(x) = phi(w.x + b).

    docs/method.md, Block (paper, section 3 and Figure 2). Takes the FFN's normed input x_BTD and returns out_BTD,
    to be added to the FFN's output. At step 0 out is exactly zero, since W_down is. A gate sees its own token
    only, so that cached generation stays exact. `bias`: whether the gate has its b. The activation, which may have
    weights, stays the FFN's. Without gradients A is computed for the tokens alone whose gate is open. Raises
    ValueError for an unknown gate or init.
    """

    def __init__(
        self,
        size: int,
        width: int,
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
        self.layers, self.context = layers, context
        # A module would be registered here a second time, with its weights.
        self.activation = activation.forward if isinstance(activation, nn.Module) else activation
        self.gate_name, self.is_sigmoid = gate, gate == "sigmoid"
        self.phi: Any = GATES[gate]
        self.threshold = 0.0
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

    def opening(self, logit_BT1: Tensor) -> Tensor:
        """g(x) of the gate's logit w.x + b."""
        return beyond(self.phi(logit_BT1), self.threshold)

    def adapter(self, x_BTD: Tensor) -> Tensor:
        """A(x)."""
        out_BTD: Tensor = self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD

    def forward(self, x_BTD: Tensor) -> Tensor:
        local = self.context.local
        if self.gate is not None and local is None and skips_closed(self, x_BTD):
            return of_open(self.adapter, x_BTD, self.opening(self.gate(x_BTD)))
        out_BTD = self.adapter(x_BTD)
        g_BT1 = None
        if self.gate is not None:
            logit_BT1 = self.gate(x_BTD)
            if local is not None and self.is_sigmoid and local.cross_entropy:
                logit_BT1 = add_cross_entropy(logit_BT1, local, self.layers)
            g_BT1 = self.opening(logit_BT1)
            out_BTD = g_BT1 * out_BTD
        if local is None:
            return out_BTD
        return measure(add_l1(out_BTD, local, self.layers), g_BT1, local, self.layers)


def close_gates(model: nn.Module, threshold: float) -> None:
    """From now on gates of the model, or of an export, count as closed where |g(x)| is not above `threshold`.

    It only adds to what the model takes for closed: 0 changes nothing.
    """
    for module in model.modules():
        if isinstance(module, NeutralBlock | Block):
            module.threshold = max(module.threshold, threshold)
