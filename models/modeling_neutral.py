"""A decoder with blocks beside its FFNs: one or several added languages, beside the model's own.

Self-contained: it needs torch and transformers alone. Load the folder that this file lies in with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.

Shapes: B rows, T tokens of a row, D width of the model; N tokens of all rows, K of them with an open gate.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig as Config
from transformers import LlamaForCausalLM as Decoder
from transformers import LlamaModel as Base

GATES: dict[str, Any] = {"sigmoid": torch.sigmoid, "elu": functional.elu, "relu": functional.relu}
# Where more than this share of the tokens has an open gate, blocks compute all of them. Measured on a CPU with
# tokens drawn at random: gathering makes it slower from 0.85 to 0.95 on for 256 tokens or more and blocks of
# 576 x 512 or 2,048 x 1,664 numbers, from 0.7 on for 32 tokens, and from 0.5 to 0.8 on for blocks of 128 x 88
# (docs/findings/training.md).
DENSE = 0.8
# What FFNs call their activation, and decoder layers the norm that follows the FFN (Gemma 2 and 3, OLMo2, GLM 4).
ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation")
POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm")
# What a config.json has instead of the model's width. transformers' own classes would take the rest for a plain
# decoder; they check that the width is a number, and stop with these words.
HOW_TO_LOAD = "this model has code of its own: load it with AutoModelForCausalLM and trust_remote_code=True"


def activation_name(ffn: nn.Module) -> str | None:
    """What an FFN calls its activation; None where it has none of the usual names."""
    return next((name for name in ACTIVATIONS if callable(getattr(ffn, name, None))), None)


def post_norm(layer: nn.Module) -> str | None:
    """The name of the norm that follows the FFN of a decoder layer; None where there is none."""
    return next((name for name in POST_NORMS if hasattr(layer, name)), None)


def beyond(g_BT1: Tensor, threshold: float) -> Tensor:
    """A gate, with 0 for what is not beyond the threshold on either side."""
    return functional.hardshrink(g_BT1, threshold) if threshold else g_BT1


def skips_closed(block: Any, x_BTD: Tensor) -> bool:
    """Whether a block leaves out tokens: those with a closed gate, on a CPU, where no gradient is asked for.

    Not on a GPU, which would have to be waited for in each layer to know how many are open; whether that pays was
    not measured. Nor in code that is compiled or traced, whose shapes do not depend on what is in a tensor.
    """
    closes = block.phi is functional.relu or block.threshold > 0
    plain = closes and x_BTD.is_cpu and not torch.is_grad_enabled()
    return plain and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def of_open(adapter: Callable[[Tensor], Tensor], x_BTD: Tensor, g_BT1: Tensor) -> Tensor:
    """g(x) A(x), with A computed for those tokens alone whose gate is open, g(x) != 0.

    What g(x) A(x) of all tokens is, but for products of fewer rows that may round differently.
    """
    count = int(g_BT1.count_nonzero())
    if not count:
        return g_BT1.expand_as(x_BTD)
    rows = rounded_up(count)
    if rows > DENSE * g_BT1.numel():
        return g_BT1 * adapter(x_BTD)
    x_ND, g_N1 = x_BTD.flatten(0, -2), g_BT1.flatten(0, -2)
    open_K = g_N1.flatten().nonzero().flatten()
    x_KD = x_ND.index_select(0, functional.pad(open_K, (0, rows - count)))
    out_KD = g_N1.index_select(0, open_K) * adapter(x_KD)[:count]
    out_ND = torch.zeros_like(x_ND, dtype=out_KD.dtype).index_add_(0, open_K, out_KD)
    return out_ND.view_as(x_BTD)


def rounded_up(count: int) -> int:
    """The next number that is 8 to 15 times a power of 2: a new number of rows costs a product in bf16 half a
    millisecond once.

    >>> [rounded_up(count) for count in (1, 15, 17, 100, 1000)]
    [1, 15, 18, 104, 1024]
    """
    step = 2 ** max(0, count.bit_length() - 4)
    return -(-count // step) * step


class Block(nn.Module):
    """out = g(x) W_down(act(W_gate x) * W_up x): a gated adapter; its gate g(x) is one number a token.

    Where |g(x)| is not above `threshold` it counts as 0. The activation, which may have weights, is the FFN's own,
    and given at each call.
    """

    def __init__(self, size: int, width: int, gate: str, bias: bool, threshold: float = 0.0) -> None:
        super().__init__()
        self.phi, self.threshold = GATES.get(gate), threshold
        self.gate_proj = nn.Linear(size, width, bias=False)
        self.up_proj = nn.Linear(size, width, bias=False)
        self.down_proj = nn.Linear(width, size, bias=False)
        self.gate = nn.Linear(size, 1, bias=bias) if self.phi else None

    def forward(self, x_BTD: Tensor, activation: Any) -> Tensor:
        def adapter(x_BTD: Tensor) -> Tensor:
            out_BTD: Tensor = self.down_proj(activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
            return out_BTD

        if self.gate is None or self.phi is None:
            return adapter(x_BTD)
        g_BT1 = beyond(self.phi(self.gate(x_BTD)), self.threshold)
        return of_open(adapter, x_BTD, g_BT1) if skips_closed(self, x_BTD) else g_BT1 * adapter(x_BTD)


def add_blocks(layer: Any, size: int, described: list[dict[str, Any]]) -> None:
    """Put the blocks beside the FFN of a decoder layer: FFN(x) + out_1(x) + … + out_n(x).

    Those that are described with a norm are added behind it, in layers that have one: norm(FFN(x)) + out(x). They
    are part of the FFN, and all its own weights keep their names.
    """
    ffn = layer.mlp
    behind = [one["norm"] is not None and post_norm(layer) is not None for one in described]
    ffn.blocks = nn.ModuleList(
        Block(size, one["width"], one["gate"], one["bias"], one.get("threshold", 0.0)) for one in described
    )
    ffn.register_forward_hook(partial(_add_outputs, behind, activation_name(ffn)))
    if any(behind):
        getattr(layer, str(post_norm(layer))).register_forward_hook(partial(_add_residues, ffn))


def _add_outputs(behind: list[bool], activation: Any, ffn: Any, inputs: tuple[Tensor], y_BTD: Tensor) -> Tensor:
    """What an FFN gives, plus the outputs of its blocks; those for behind the norm are kept for it."""
    residues = []
    for block, later in zip(ffn.blocks, behind, strict=True):
        out_BTD = block(inputs[0], getattr(ffn, activation))
        if later:
            residues.append(out_BTD)
        else:
            y_BTD = y_BTD + out_BTD
    if residues:
        ffn.residues = residues
    return y_BTD


def _add_residues(ffn: Any, norm: nn.Module, inputs: tuple[Tensor], y_BTD: Tensor) -> Tensor:
    """What the norm behind an FFN gives, plus the outputs kept for it, which are kept no longer."""
    for out_BTD in ffn.residues:
        y_BTD = y_BTD + out_BTD
    del ffn.residues
    return y_BTD


class Extended:
    """A decoder becomes one with the blocks that `neutral_residues` in its config describes."""

    base_model: Any
    base_model_prefix: str
    post_init: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        about = config.neutral_residues
        check(about)
        path = about["layers"].removeprefix(f"{self.base_model_prefix}.")
        for layer in self.base_model.get_submodule(path):
            add_blocks(layer, config.get_text_config().hidden_size, about["blocks"])
        self.post_init()


def check(about: Any) -> None:
    """Raises ValueError unless `neutral_residues` of a config names what blocks are made of, and nothing else."""
    known = (
        isinstance(about, dict)
        and isinstance(about["layers"], str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*", about["layers"])
        and about.get("activation", ACTIVATIONS[0]) in ACTIVATIONS  # exports of before name it
        and isinstance(about["blocks"], list)
        and len(about["blocks"]) <= 100
        and all(
            type(one["width"]) is int
            and one["width"] > 0
            and (one["gate"] == "none" or one["gate"] in GATES)
            and isinstance(one["bias"], bool)
            and (one["norm"] is None or one["norm"] in POST_NORMS)
            and type(threshold := one.get("threshold", 0.0)) in (int, float)  # exports of before have none
            and 0 <= threshold < math.inf
            for one in about["blocks"]
        )
    )
    if not known:
        raise ValueError("neutral_residues in config.json does not describe blocks; export the model again")


def as_saved(decoder: dict[str, Any], config_class: Any, about: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a decoder with blocks, from that of the decoder.

    Its `model_type` is one that transformers does not know, and it has no width: `neutral_residues` keeps both.
    """
    width = config_class.attribute_map.get("hidden_size", "hidden_size")
    kept = {width: decoder[width]} if width in decoder else {}
    changed = dict.fromkeys(kept, HOW_TO_LOAD) | {"model_type": ExtendedConfig.model_type}
    about = about | {"decoder": kept | {"model_type": config_class.model_type}}
    return decoder | changed | {"neutral_residues": about}


class ExtendedConfig(Config):
    """The decoder's config, and in `neutral_residues` what was added to it."""

    model_type = "neutral_residues"

    def __init__(self, **entries: Any) -> None:
        kept = entries.get("neutral_residues", {}).get("decoder", {})
        super().__init__(**(entries | kept | {"model_type": self.model_type}))

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved."""
        return as_saved(super().to_diff_dict(), Config, getattr(self, "neutral_residues", {}))


class ExtendedModel(Extended, Base):
    """The decoder without its head."""

    config_class = ExtendedConfig


class ExtendedForCausalLM(Extended, Decoder):
    """The decoder."""

    config_class = ExtendedConfig
