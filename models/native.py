"""Native twins: an extended model as one of a class that transformers, vLLM and llama.cpp have already.

Blocks without a gate are more width of the FFN beside them. A block whose gate is a sigmoid without bias is an
expert of a mixture of experts that weighs its experts so, and of which all are chosen (docs/method.md, Native
twins). So the model needs no code of its own, wherever it is served.

Shapes: N samples, D width of the model, F of its FFN, M of a block, P of a padded one, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.block import NeutralBlock
from models.extend import ExtendedFFN, decoder_layers, merge_lora, plain_ffn
from models.refusals import said

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
# Backbones whose attention and norms the mixtures of experts below share.
BACKBONES = ("llama", "mistral", "qwen2", "qwen3")
# Entries of a config that mean the same in all these classes.
SHARED_KEYS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "attention_dropout",
    "bos_token_id", "eos_token_id", "pad_token_id", "dtype",
)  # fmt: skip
# GGUF files cut rows into blocks of 32 numbers, and of 256 for K-quants, which may pad MOST_PADDING more.
FINE, COARSE, MOST_PADDING = 32, 256, 0.05


class NoTwinError(ValueError):
    """An extended model that no class has the arithmetic of; the message says why, and what would have a twin."""


@dataclass(frozen=True)
class Twin:
    """A model that transformers loads, in a line why it is of this class, and whether its code comes with it."""

    model: Any
    why: str
    has_code: bool = False


def native(model: Any, kinds: Iterable[str] = ("qwen2_moe", "glm4_moe")) -> Twin:
    """The twin of an extended model (models.adapter.attach), which is itself changed, and shares weights with it.

    kinds: of KINDS, the first that fits is taken. Raises NoTwinError where there is none.
    """
    merge_lora(model)
    if fold(model):
        return Twin(model, "what was added is in the weights of its own class")
    wrong = _misfit(model)
    for kind in [] if wrong else kinds:
        wrong = KINDS[kind].misfit(model)
        if not wrong:
            return Twin(KINDS[kind].build(model), KINDS[kind].why)
    raise NoTwinError(str(wrong))


def native_for_gguf(model: Any) -> Twin:
    """native() for a GGUF file (models/gguf_file.py).

    llama.cpp makes NaN of Qwen2-MoE where w x is exactly 0. Its GLM-4-MoE does not know the scaled positions of
    Llama 3.1; its GraniteMoeShared does, and for more than one block the writer finds another name.
    """
    scaled = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") == "llama3"
    return native(model, ("granite", "glm4_moe") if scaled else ("glm4_moe",))


def extended_ffns(layer: Any) -> list[ExtendedFFN]:
    """The FFNs extended by a block each, in the order in which the blocks were added."""
    extended: list[ExtendedFFN] = []
    ffn = layer.mlp
    while isinstance(ffn, ExtendedFFN):
        extended.insert(0, ffn)
        ffn = ffn.ffn
    return extended


# More width ---------------------------------------------------------------------------------------


@torch.no_grad()
def fold(model: Any) -> bool:
    """Turn blocks without a gate into more width of the FFNs, in place. Returns whether no block is left.

    Exact but for the order of the sums. A block that is added behind a norm, or stands beside an FFN that is not
    gated as it is, stays.
    """
    layers = decoder_layers(model)
    config = model.config.get_text_config()
    chains = [extended_ffns(layer) for layer in layers]
    folds = [all(map(_is_plain, column)) for column in zip(*chains, strict=True)]
    if any(folds) and all(_is_gated_ffn(plain_ffn(layer.mlp), config) for layer in layers):
        for layer, chain in zip(layers, chains, strict=True):
            ffn: Any = plain_ffn(layer.mlp)
            for extended in [one for one, folded in zip(chain, folds, strict=True) if folded]:
                _widen(ffn, extended.block)
            layer.mlp = ffn
            for extended in [one for one, folded in zip(chain, folds, strict=True) if not folded]:
                extended.ffn, layer.mlp = layer.mlp, extended
        config.intermediate_size = plain_ffn(layers[0].mlp).down_proj.in_features  # type: ignore[union-attr]
    return not extended_ffns(layers[0])


def _is_plain(extended: ExtendedFFN) -> bool:
    return extended.block.gate is None and not extended.after_norm


def _is_gated_ffn(ffn: Any, config: Any) -> bool:
    """Whether an FFN is gated as a block is, of config.intermediate_size."""
    linear = {name for name, module in ffn.named_children() if isinstance(module, nn.Linear)}
    if linear != set(PROJECTIONS) or not callable(getattr(ffn, "act_fn", None)):
        return False
    x_ND = torch.linspace(-2, 2, 4 * ffn.gate_proj.in_features).view(4, -1).to(ffn.gate_proj.weight)
    as_a_block_ND = ffn.down_proj(ffn.act_fn(ffn.gate_proj(x_ND)) * ffn.up_proj(x_ND))
    same = torch.equal(ffn(x_ND), as_a_block_ND)
    return same and getattr(config, "intermediate_size", None) == ffn.down_proj.in_features


def _widen(ffn: Any, block: NeutralBlock) -> None:
    """A block without a gate as more width of the FFN (docs/method.md, Block).

    act(gate x) * up x is computed for each unit of the width by itself, and down_proj sums over all of them.
    """
    dtype = ffn.down_proj.weight.dtype
    width = block.up_proj.out_features
    for name in ("gate_proj", "up_proj"):
        linear = getattr(ffn, name)
        linear.weight = _joined(linear.weight, getattr(block, name).weight.to(dtype), 0)
        if linear.bias is not None:
            linear.bias = _joined(linear.bias, linear.bias.new_zeros(width), 0)
        linear.out_features += width
    ffn.down_proj.weight = _joined(ffn.down_proj.weight, block.down_proj.weight.to(dtype), 1)
    ffn.down_proj.in_features += width
    ffn.intermediate_size = ffn.down_proj.in_features


def _joined(one: Tensor, other: Tensor, dimension: int) -> nn.Parameter:
    return nn.Parameter(torch.cat([one, other], dimension), requires_grad=False)


# Experts ------------------------------------------------------------------------------------------


def _misfit(model: Any) -> str | None:
    """Why the gated blocks of a model are no experts of any class, and what would be; None where they are."""
    config, layer = model.config, decoder_layers(model)[0]
    ffn: Any = plain_ffn(layer.mlp)
    blocks, name = _blocks(layer), type(model).__name__
    others = [block.gate_name for block in blocks if not block.is_sigmoid]
    if any(one.after_norm for one in extended_ffns(layer)):
        return "blocks are added behind a norm; with `placement: before_norm` and `gate: none` there would be one"
    if config.model_type not in BACKBONES:
        return f"no server has gates beside the FFN of {name}; without them (`method: adapter`) there would be one"
    if others or any(block.gate is None or block.gate.bias is not None for block in blocks):
        gate = f"{others[0]} gate" if others else "gate with a bias"
        return f"no server has the {gate}; with `gate: sigmoid` and `gate_bias: false` there would be one"
    if config.hidden_act not in ("silu", "swish"):
        return f"servers hold such models to SiLU, and the activation is {said(config.hidden_act)}"
    if _window(config) < config.max_position_embeddings:
        return f"no mixture of experts has the sliding window of {name} without a gate of its own"
    if any(
        linear.bias is not None for linear in (layer.self_attn.o_proj, *(getattr(ffn, x) for x in PROJECTIONS))
    ):
        return f"{name} has biases here that no such mixture of experts has"
    return None


def _misfit_of_qwen2_moe(model: Any) -> str | None:
    config = model.config
    if len(_blocks(decoder_layers(model)[0])) > 1:
        return "Qwen2-MoE has one gated expert"
    if config.model_type == "qwen3":
        return "Qwen2-MoE has no norm of queries and keys"
    if _head_dim(config) * config.num_attention_heads != config.hidden_size:
        return "the heads of Qwen2-MoE are as wide together as the model"
    return None


def _misfit_of_granite(model: Any) -> str | None:
    if any(layer.self_attn.q_proj.bias is not None for layer in decoder_layers(model)):
        return "the attention of GraniteMoeShared has all biases or none"
    return _misfit_of_qwen2_moe(model)


def _qwen2_moe(model: Any) -> Any:
    """One block: the shared expert of Qwen2-MoE, which a sigmoid weighs, beside one that is always chosen."""
    config, weights = model.config, {}
    ffn_width, width = _fine(config.intermediate_size), _fine(_width(model))
    for number, layer in enumerate(decoder_layers(model)):
        prefix, [block] = f"model.layers.{number}.", _blocks(layer)
        weights[f"{prefix}mlp.gate.weight"] = torch.zeros_like(block.gate.weight)  # softmax of one number is 1
        weights[f"{prefix}mlp.shared_expert_gate.weight"] = block.gate.weight
        weights |= _projections(f"{prefix}mlp.experts.0.", plain_ffn(layer.mlp), ffn_width)
        weights |= _projections(f"{prefix}mlp.shared_expert.", block, width)
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(layer.self_attn, name)
            if linear.bias is None:  # vLLM makes them whatever the config says
                weights[f"{prefix}self_attn.{name}.bias"] = linear.weight.new_zeros(linear.out_features)
    entries = {
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "moe_intermediate_size": ffn_width,
        "intermediate_size": ffn_width,
        "shared_expert_intermediate_size": width,
        "qkv_bias": True,
        "rope_parameters": config.rope_parameters,
    }
    return _build("Qwen2Moe", model, entries, weights)


def _glm4_moe(model: Any) -> Any:
    """Any number of blocks: routed experts of GLM-4-MoE, all chosen, each weighed by a sigmoid of its own.

    The FFN is its shared experts. The choice takes two, so that beside a single block stands an expert of zeros,
    which is not chosen and so not computed.
    """
    config, weights = model.config, {}
    first = decoder_layers(model)[0]
    count = len(_blocks(first))
    experts = max(2, count)
    widths = [block.up_proj.out_features for block in _blocks(first)]
    shared, width = padded_widths(config.intermediate_size, widths, experts)
    for number, layer in enumerate(decoder_layers(model)):
        prefix, ffn = f"model.layers.{number}.mlp.", plain_ffn(layer.mlp)
        gates = [block.gate.weight for block in _blocks(layer)]
        zeros = gates[0].new_zeros(experts - count, config.hidden_size)
        weights[f"{prefix}gate.weight"] = torch.cat([*gates, zeros])
        # It counts for the choice alone.
        weights[f"{prefix}gate.e_score_correction_bias"] = torch.tensor([2.0] * count + [0.0] * (experts - count))
        weights |= _projections(f"{prefix}shared_experts.", ffn, shared * width)
        for expert, block in enumerate(_blocks(layer)):
            weights |= _projections(f"{prefix}experts.{expert}.", block, width)
        for expert in range(count, experts):
            weights |= _projections(f"{prefix}experts.{expert}.", ffn, width, zero=True)
    entries = {
        "intermediate_size": config.intermediate_size,
        "head_dim": _head_dim(config),
        "n_routed_experts": experts,
        "num_experts_per_tok": count,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 0,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "moe_intermediate_size": width,
        "n_shared_experts": shared,
        "attention_bias": first.self_attn.q_proj.bias is not None,
        "use_qk_norm": hasattr(first.self_attn, "q_norm"),
        "num_nextn_predict_layers": 0,
        "rope_parameters": config.rope_parameters | {"partial_rotary_factor": 1.0},  # half of each head by default
    }
    return _build("Glm4Moe", model, entries, weights)


def _granite(model: Any) -> Any:
    """One block: the first of two experts of GraniteMoeShared. The softmax of (w x, 0) is the sigmoid of w x."""
    config, weights = model.config, {}
    ffn_width, width = _fine(config.intermediate_size), _fine(_width(model))
    for number, layer in enumerate(decoder_layers(model)):
        prefix, [block] = f"model.layers.{number}.", _blocks(layer)
        gate, up, down = _projections("", block, width).values()
        parts = {"router.layer": block.gate.weight, "input_linear": torch.cat([gate, up])[None]}
        for name, part in (parts | {"output_linear": down[None]}).items():
            weights[f"{prefix}block_sparse_moe.{name}.weight"] = torch.cat([part, torch.zeros_like(part)])
        gate, up, down = _projections("", plain_ffn(layer.mlp), ffn_width).values()
        weights[f"{prefix}shared_mlp.input_linear.weight"] = torch.cat([gate, up])
        weights[f"{prefix}shared_mlp.output_linear.weight"] = down
    entries = {
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "intermediate_size": width,
        "shared_intermediate_size": ffn_width,
        "attention_multiplier": _head_dim(config) ** -0.5,
        "attention_bias": False,
        "rope_parameters": config.rope_parameters,
    }
    return _build("GraniteMoeShared", model, entries, weights, tied=config.tie_word_embeddings)


@dataclass(frozen=True)
class Kind:
    """A class that has the arithmetic of gated blocks: why it, what does not fit it, and how it is built."""

    why: str
    misfit: Callable[[Any], str | None]
    build: Callable[[Any], Any]


KINDS = {
    "qwen2_moe": Kind("Qwen2-MoE: its shared expert is one block, to the bit", _misfit_of_qwen2_moe, _qwen2_moe),
    "glm4_moe": Kind("GLM-4-MoE: its experts are any number of blocks", lambda _model: None, _glm4_moe),
    "granite": Kind("GraniteMoeShared: the first of its two experts is one block", _misfit_of_granite, _granite),
}


def padded_widths(ffn: int, blocks: list[int], experts: int) -> tuple[int, int]:
    """(k, P): an FFN as k shared experts of a width P that holds each block, with the least padding.

    >>> padded_widths(1536, [512], 2), padded_widths(24, [12, 9], 2), padded_widths(8960, [1792], 2)
    ((3, 512), (1, 32), (5, 1792))
    """

    def padding(width: int) -> int:
        return -(-ffn // width) * width + experts * width

    def best(multiple: int) -> int:
        least = -(-max(blocks) // multiple)
        widths = range(least, max(least, -(-ffn // multiple)) + 1)
        return min((multiple * width for width in widths), key=lambda width: (padding(width), -width))

    coarse, fine = best(COARSE), best(FINE)
    width = coarse if padding(coarse) <= (1 + MOST_PADDING) * padding(fine) else fine
    return -(-ffn // width), width


def _fine(width: int) -> int:
    """A width made a multiple of FINE, without which transformers' grouped products stop."""
    return -(-width // FINE) * FINE


def _blocks(layer: Any) -> list[Any]:
    return [one.block for one in extended_ffns(layer)]


def _width(model: Any) -> int:
    """M of the only block."""
    [block] = _blocks(decoder_layers(model)[0])
    return block.up_proj.out_features


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _window(config: Any) -> float:
    """Tokens that attention goes back at most."""
    kinds = getattr(config, "layer_types", None) or (["sliding"] if config.model_type == "mistral" else [])
    window = getattr(config, "sliding_window", None)
    return window if window and any("sliding" in kind for kind in kinds) else math.inf


@torch.no_grad()
def _projections(prefix: str, ffn: Any, width: int | None = None, zero: bool = False) -> dict[str, Tensor]:
    """The three matrices of an FFN or a block, with zeros behind its width; `zero`: nothing but zeros."""
    weights = {}
    for name in PROJECTIONS:
        weight = getattr(ffn, name).weight
        more = 0 if width is None else width - weight.shape[name == "down_proj"]
        if zero:
            weight, more = weight[:, :0] if name == "down_proj" else weight[:0], width or 0
        pad = (0, more) if name == "down_proj" else (0, 0, 0, more)
        weights[f"{prefix}{name}.weight"] = functional.pad(weight, pad) if more else weight
    return weights


def _build(name: str, model: Any, entries: dict[str, Any], weights: dict[str, Tensor], tied: bool = False) -> Any:
    """A model of transformers' class `name` with these entries of its config, and all weights of `model` but FFNs.

    weights: those of the FFNs, by the names that they have on the hub. Embeddings that are tied become two, where
    servers do not tie them.
    """
    import transformers

    kept = {key: getattr(model.config, key) for key in SHARED_KEYS}
    config = getattr(transformers, f"{name}Config")(**kept, **entries, tie_word_embeddings=tied)
    own = {key: weight for key, weight in model.state_dict().items() if ".mlp." not in key}
    if model.config.tie_word_embeddings and not tied:  # one weight under two names would be saved once
        own["lm_head.weight"] = own["lm_head.weight"].clone()
    dtype = model.get_input_embeddings().weight.dtype
    twin, report = getattr(transformers, f"{name}ForCausalLM").from_pretrained(
        None, config=config, state_dict=own | weights, dtype=dtype, output_loading_info=True,
        attn_implementation=model.config._attn_implementation,
    )  # fmt: skip
    if report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"]:
        raise NoTwinError(f"transformers' {name}ForCausalLM has other weights in this version: {report}")
    twin.generation_config = model.generation_config
    return twin.eval()
