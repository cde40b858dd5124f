"""The neutral block: a gated adapter that runs in parallel with the FFN of one decoder layer.

Shapes: B rows of a micro-batch, T tokens of a row, D width of the model; a digit is a dimension of that size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.local_losses import Context, add_cross_entropy, add_l1, measure

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
    weights, stays the FFN's. Raises ValueError for an unknown gate or init.
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
                logit_BT1 = add_cross_entropy(logit_BT1, local, self.layers)
            g_BT1 = self.phi(logit_BT1)
            out_BTD = g_BT1 * out_BTD
        if local is None:
            return out_BTD
        return measure(add_l1(out_BTD, local, self.layers), g_BT1, local, self.layers)
