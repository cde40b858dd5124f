"""A decoder with blocks beside its FFNs: one or several added languages, beside the model's own.

Self-contained: it needs torch and transformers alone. Load the folder that this file lies in with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM as Decoder

GATES: dict[str, Any] = {"sigmoid": torch.sigmoid, "elu": functional.elu, "relu": functional.relu}


class Block(nn.Module):
    """out = g(x) W_down(act(W_gate x) * W_up x): a gated adapter; its gate g(x) is one number a token."""

    def __init__(self, size: int, width: int, gate: str, bias: bool, activation: Any) -> None:
        super().__init__()
        self.activation, self.phi = activation, GATES.get(gate)
        self.gate_proj = nn.Linear(size, width, bias=False)
        self.up_proj = nn.Linear(size, width, bias=False)
        self.down_proj = nn.Linear(width, size, bias=False)
        self.gate = nn.Linear(size, 1, bias=bias) if self.phi else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD = self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD if self.gate is None or self.phi is None else self.phi(self.gate(x_BTD)) * out_BTD


class ExtendedFFN(nn.Module):
    """The decoder's FFN and a block beside it; with `waiting` the block's output is added behind the norm."""

    def __init__(self, ffn: nn.Module, block: Block, waiting: list[Tensor] | None) -> None:
        super().__init__()
        self.ffn, self.block, self.waiting = ffn, block, waiting

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.waiting is None:
            return self.ffn(x_BTD) + self.block(x_BTD)
        y_BTD = self.ffn(x_BTD)
        self.waiting[:] = [self.block(x_BTD)]
        return y_BTD


class ExtendedNorm(nn.Module):
    """The norm behind an FFN, and behind it the addition of what the block left waiting."""

    def __init__(self, norm: nn.Module, waiting: list[Tensor]) -> None:
        super().__init__()
        self.norm, self.waiting = norm, waiting

    def forward(self, y_BTD: Tensor) -> Tensor:
        return self.norm(y_BTD) + self.waiting.pop()


class ExtendedForCausalLM(Decoder):
    """The decoder, with the blocks that `neutral_residues` in its config describes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        about = config.neutral_residues
        size = config.get_text_config().hidden_size
        layers: Any = self.get_submodule(about["layers"])
        for layer in layers:
            activation = getattr(layer.mlp, about["activation"])
            for one in about["blocks"]:
                block = Block(size, one["width"], one["gate"], one["bias"], activation)
                waiting: list[Tensor] | None = [] if one["norm"] else None
                if waiting is not None:
                    setattr(layer, one["norm"], ExtendedNorm(getattr(layer, one["norm"]), waiting))
                layer.mlp = ExtendedFFN(layer.mlp, block, waiting)
        self.post_init()
