"""A decoder with blocks beside its FFNs: one or several added languages, beside the model's own.

Self-contained: it needs torch and transformers alone. Load the folder that this file lies in with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.

Shapes: B rows, T tokens of a row, D width of the model.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM as Decoder

GATES: dict[str, Any] = {"sigmoid": torch.sigmoid, "elu": functional.elu, "relu": functional.relu}
# What FFNs call their activation, and decoder layers the norm that follows the FFN (Gemma 2 and 3, OLMo2, GLM 4).
ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation")
POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm")


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
        out_BTD: Tensor = self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD if self.gate is None or self.phi is None else self.phi(self.gate(x_BTD)) * out_BTD


class ExtendedFFN(nn.Module):
    """FFN(x) + out(x) of the block beside it; with `after_norm` out(x), the residue, is kept for ExtendedNorm."""

    residue_BTD: Tensor

    def __init__(self, ffn: nn.Module, block: Block, after_norm: bool) -> None:
        super().__init__()
        self.ffn, self.block, self.after_norm = ffn, block, after_norm

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.ffn(x_BTD)
        out_BTD: Tensor = self.block(x_BTD)
        if not self.after_norm:
            return y_BTD + out_BTD
        self.residue_BTD = out_BTD
        return y_BTD

    def take_residue(self) -> Tensor:
        """What the block computed; it is kept no longer."""
        residue_BTD = self.residue_BTD
        del self.residue_BTD
        return residue_BTD


class ExtendedNorm(nn.Module):
    """The norm that follows an FFN, plus the residue: norm(FFN(x)) + out(x)."""

    def __init__(self, norm: nn.Module, take_residue: Callable[[], Tensor]) -> None:
        super().__init__()
        self.norm, self.take_residue = norm, take_residue

    def forward(self, y_BTD: Tensor) -> Tensor:
        normed_BTD: Tensor = self.norm(y_BTD)
        return normed_BTD + self.take_residue()


class Extended(nn.Module):
    """A decoder becomes one with the blocks that `neutral_residues` in its config describes."""

    post_init: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        about = config.neutral_residues
        check(about)
        size = config.get_text_config().hidden_size
        layers: Any = self.get_submodule(about["layers"])
        for layer in layers:
            activation = getattr(layer.mlp, about["activation"])
            for one in about["blocks"]:
                block = Block(size, one["width"], one["gate"], one["bias"], activation)
                layer.mlp = ExtendedFFN(layer.mlp, block, after_norm=bool(one["norm"]))
                if one["norm"]:
                    norm = getattr(layer, one["norm"])
                    setattr(layer, one["norm"], ExtendedNorm(norm, layer.mlp.take_residue))
        self.post_init()


def check(about: Any) -> None:
    """Raises ValueError unless `neutral_residues` of a config names what blocks are made of, and nothing else."""
    known = (
        isinstance(about, dict)
        and isinstance(about["layers"], str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*", about["layers"])
        and about["activation"] in ACTIVATIONS
        and isinstance(about["blocks"], list)
        and len(about["blocks"]) <= 100
        and all(
            type(one["width"]) is int
            and one["width"] > 0
            and (one["gate"] == "none" or one["gate"] in GATES)
            and isinstance(one["bias"], bool)
            and (one["norm"] is None or one["norm"] in POST_NORMS)
            for one in about["blocks"]
        )
    )
    if not known:
        raise ValueError("neutral_residues in config.json does not describe blocks; export the model again")


class ExtendedForCausalLM(Extended, Decoder):
    """The decoder, with the blocks that `neutral_residues` in its config describes."""
