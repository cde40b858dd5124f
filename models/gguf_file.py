"""Models as GGUF files, which llama.cpp and the programs built on it read.

Written from memory, tensor by tensor: llama.cpp's own converter stops at the tokenizers of most models that stand
for extended ones, and loses the rope scaling of others. Names and keys are those of the package `gguf`; what
llama.cpp takes for granted of an architecture is in its src/models/, read and tried in October 2026.

Shapes: V entries of the vocabulary, D width of the model, N heads, H size of one, E experts, M width of one.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.gguf_vocabulary import vocabulary
from models.refusals import said

log = logging.getLogger(__name__)

# Classes of transformers, and what llama.cpp calls them.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Olmo2ForCausalLM": "olmo2",
    "Qwen2MoeForCausalLM": "qwen2moe",
    "Glm4MoeForCausalLM": "glm4moe",  # step35 where rope is scaled as Llama 3.1's
    "GraniteMoeSharedForCausalLM": "granitemoe",
}
# What llama.cpp takes for granted, by entries of the config: of another model it would compute something else.
SILU, GELU = {"hidden_act": "silu"}, "gelu_pytorch_tanh"
EXPECTED: dict[str, dict[str, Any]] = {
    "llama": SILU,
    "qwen2": SILU,
    "qwen3": SILU | {"attention_bias": False},
    "gemma": {"hidden_act": GELU, "attention_bias": False},
    "gemma2": {"hidden_activation": GELU, "attention_bias": False},
    "gemma3": {
        "hidden_activation": GELU,
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    },
    "olmo2": SILU | {"attention_bias": False},
    "qwen2moe": SILU | {"decoder_sparse_step": 1, "mlp_only_layers": []},
    "glm4moe": SILU | {"first_k_dense_replace": 0, "n_group": 1},
    "granitemoe": SILU,
}
NEIGHBOURS = ("llama", "granitemoe")  # rotate neighbours in a head, not its first half with its second
NARROW = ("qwen2", "qwen2moe", "olmo2")  # have heads of D / N
SCALED = ("llama", "granitemoe", "step35")  # know the rope of Llama 3.1
ALWAYS_TIED, NEVER_TIED = ("gemma", "gemma2"), ("olmo2", "qwen2moe", "step35")
WIDE_SCALE = {"gemma2": 46, "gemma3": 62}  # layers of those whose attention is scaled by D / N, and not by H
# Kinds of files, and their numbers in general.file_type (llama_ftype in llama.h).
KINDS = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2}
AT_ONCE = 2**24  # weights that are converted at a time
INSTEAD = "export it as a folder for transformers instead"
# Names that the package does not know, or from other models alone.
RENAMED = {
    "block_sparse_moe.router.": "mlp.gate.",
    "block_sparse_moe.": "mlp.",
    "shared_mlp.input_linear.weight": "mlp.shared_expert.gate_up_proj",
    "shared_mlp.output_linear.": "mlp.shared_expert.down_proj.",
    "e_score_correction_bias": "e_score_correction.bias",
}


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: its name, shape and type (of the package) there, and its values in that order.

    values: a view of the model's, which may have more dimensions.
    """

    name: str
    shape: torch.Size
    values: Tensor
    type: Any


def write_gguf(
    model: Any, tokenizer: Any, path: str | Path, kind: str = "bf16", about: Mapping[str, Any] | None = None
) -> None:
    """Write a model of transformers' own class, one of ARCHITECTURES, and its tokenizer as a GGUF file.

    kind: one of KINDS. Whatever it is, norms, biases and the rows of gates are in f32, and matrices whose rows do
    not divide into its blocks of 32 in bf16. about: what is known of `name`, `license`, `languages` (ISO codes)
    and `base_model`. Besides the model it takes memory for a copy of its largest tensor.
    A process that is killed leaves a part of the file: give a path to be renamed. Raises ValueError where
    llama.cpp would compute or read something else.
    """
    import gguf

    if kind not in KINDS:
        raise ValueError(f"{said(kind)} is no kind of GGUF file that is written; take one of {', '.join(KINDS)}")
    architecture, entries = _describe(model)
    tensors = [_stored(name, shape, values, kind) for name, shape, values in _tensors(model, architecture)]
    rows = model.get_input_embeddings().weight.shape[0]
    writer = gguf.GGUFWriter(None, architecture)
    general = {"file_type": KINDS[kind], "quantization_version": gguf.GGML_QUANT_VERSION, **_general(about or {})}
    _add(writer, {f"general.{key}": value for key, value in general.items()})
    _add(writer, {f"{architecture}.{key}": value for key, value in {**entries, "vocab_size": rows}.items()})
    _add(writer, {f"tokenizer.{key}": value for key, value in vocabulary(tokenizer, rows).items()})
    unfit = [one.name for one in tensors if one.type.name == "BF16" != kind.upper()]
    if unfit:
        log.warning(
            "%d tensors stay in bf16 (%s, …): their rows do not divide into blocks of 32", len(unfit), unfit[0]
        )
    _write(writer, Path(path), tensors)


# What llama.cpp reads of the config ---------------------------------------------------------------


def _describe(model: Any) -> tuple[str, dict[str, Any]]:
    """llama.cpp's name of the architecture, and the entries of a GGUF file that it reads for it."""
    name, config = type(model).__name__, model.config
    if name not in ARCHITECTURES:
        raise ValueError(f"llama.cpp has nothing known here for {said(name)[1:-1]}; {INSTEAD}")
    architecture = ARCHITECTURES[name]
    _check(config, architecture)
    layers, context = config.num_hidden_layers, config.max_position_embeddings
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if architecture == "glm4moe" and config.rope_parameters["rope_type"] == "llama3":
        architecture = "step35"
    entries: dict[str, Any] = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head,
        **_rope(config, architecture),
    }
    window = getattr(config, "sliding_window", None)
    if architecture in ("gemma2", "gemma3"):
        entries["attention.sliding_window"] = window
        entries["attention.sliding_window_pattern"] = [one == "sliding_attention" for one in config.layer_types]
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        entries |= {key: float(getattr(config, key)) for key in caps if getattr(config, key)}
    elif window and window < context:  # the others see all that is before; within the window that is the same
        log.warning("the file is for texts of up to %d tokens: llama.cpp knows no sliding window here", window)
        entries["context_length"] = window
    return architecture, entries | _experts(config, architecture)


def _check(config: Any, architecture: str) -> None:
    """Raises ValueError where the config says something else than llama.cpp takes for granted."""
    wide = config.hidden_size // config.num_attention_heads
    expected = dict(EXPECTED[architecture])
    if architecture in NARROW:
        expected["head_dim"] = wide
    if architecture in WIDE_SCALE:
        scaled_wide = config.num_hidden_layers == WIDE_SCALE[architecture]
        expected["query_pre_attn_scalar"] = wide if scaled_wide else config.head_dim
    if architecture == "qwen2moe" and config.num_experts_per_tok < config.num_experts:
        expected["norm_topk_prob"] = False
    for key, value in expected.items():
        found = getattr(config, key, None)
        found = "silu" if found == "swish" else found
        if (found or None) != (value or None) and not (key == "head_dim" and found is None):
            raise ValueError(f"{key} is {said(found)[1:-1]}, and {value} in llama.cpp's {architecture}; {INSTEAD}")
    if architecture == "gemma2" and not (config.attn_logit_softcapping and config.final_logit_softcapping):
        raise ValueError(f"its logits are not capped, and in llama.cpp's gemma2 they are; {INSTEAD}")


def _rope(config: Any, architecture: str) -> dict[str, Any]:
    """Entries for the rotary embedding. Raises ValueError where llama.cpp would scale it in another way."""
    about = config.rope_parameters
    entries: dict[str, Any] = {}
    if architecture == "gemma3":
        sliding, about = about["sliding_attention"], about["full_attention"]
        entries["rope.freq_base_swa"] = float(sliding["rope_theta"])
        if sliding["rope_type"] != "default":
            raise ValueError(f"the rope of its sliding layers is scaled, and llama.cpp's is not; {INSTEAD}")
    entries["rope.freq_base"] = float(about["rope_theta"])
    kind = about["rope_type"]
    if kind == "linear":
        entries |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(about["factor"])}
    elif kind != "default" and not (kind == "llama3" and architecture in SCALED):
        raise ValueError(
            f"its rope is scaled ({said(kind)[1:-1]}), which is not written for llama.cpp's {architecture}; "
            f"if texts are short enough without, take rope_scaling out of its config.json; or {INSTEAD}"
        )
    if about.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"it rotates a part of each head (partial_rotary_factor); {INSTEAD}")
    return entries


def _experts(config: Any, architecture: str) -> dict[str, Any]:
    """Entries for what one architecture alone has."""
    if architecture == "granitemoe":
        return {
            "expert_count": config.num_local_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_shared_feed_forward_length": config.shared_intermediate_size,
            "attention.scale": float(config.attention_multiplier),
            "embedding_scale": float(config.embedding_multiplier),
            "residual_scale": float(config.residual_multiplier),
            "logit_scale": float(config.logits_scaling),
        }
    if architecture == "qwen2moe":
        return {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
            "expert_shared_feed_forward_length": config.shared_expert_intermediate_size,
        }
    if architecture not in ("glm4moe", "step35"):
        return {}
    entries = {
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_gating_func": 2,  # sigmoid
        "expert_weights_norm": bool(config.norm_topk_prob),
        "expert_weights_scale": float(config.routed_scaling_factor),
    }
    if architecture == "glm4moe":
        return entries | {
            "expert_shared_count": config.n_shared_experts,
            "leading_dense_block_count": 0,
        }
    # It halves the dimensions of all but sliding layers, and wants one of those: a draft layer that is not there.
    layers, context = config.num_hidden_layers, config.max_position_embeddings
    return entries | {
        "block_count": layers + 1,
        "nextn_predict_layers": 1,
        "attention.sliding_window": context,
        "attention.sliding_window_pattern": [False] * layers + [True],
        "rope.dimension_count": 2 * config.head_dim,
        "expert_shared_feed_forward_length": config.n_shared_experts * config.moe_intermediate_size,
    }


def _general(about: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that tell a reader what the file is."""
    entries: dict[str, Any] = {key: said(about[key])[1:-1] for key in ("name", "license") if about.get(key)}
    if languages := about.get("languages"):
        entries["languages"] = [said(language)[1:-1] for language in languages]
    if about.get("base_model"):
        entries |= {"base_model.count": 1, "base_model.0.name": said(about["base_model"])[1:-1]}
    return {"type": "model", **entries}


# Tensors ------------------------------------------------------------------------------------------


def _tensors(model: Any, architecture: str) -> Iterator[tuple[str, torch.Size, Tensor]]:
    """llama.cpp's name and shape of each tensor, and the values in its order, mostly views of the model's."""
    import gguf

    config, state = model.config, dict(model.state_dict())
    embedding, head = state["model.embed_tokens.weight"], state["lm_head.weight"]
    tied = head.data_ptr() == embedding.data_ptr() or torch.equal(head, embedding)
    if tied and architecture not in NEVER_TIED:
        del state["lm_head.weight"]
    elif architecture in ALWAYS_TIED:
        raise ValueError(f"its output head is not its embeddings, as in llama.cpp's {architecture}; {INSTEAD}")
    number = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for source, whole in state.items():
        for part, tensor in _parts(source, whole):
            name = names.get_name(part, (".weight", ".bias"))
            if name is None:
                raise ValueError(f"{said(source)[1:-1]} is no weight of a plain {type(model).__name__}; {INSTEAD}")
            shape = tensor.shape
            if architecture in NEIGHBOURS and (".attn_q." in name or ".attn_k." in name):
                heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
                # Half by half in transformers' order.
                tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2)
            elif architecture.startswith("gemma") and name.endswith("norm.weight"):
                tensor = tensor.float() + 1  # its norms multiply with 1 + weight
            elif name.endswith("ffn_gate_inp_shexp.weight"):
                shape = shape[1:]
            yield name, shape, tensor
    if architecture in SCALED and config.rope_parameters["rope_type"] == "llama3":
        factors = _rope_factors(config)
        yield "rope_freqs.weight", factors.shape, factors


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight under the names that the package knows; what is joined in one is parted."""
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    if name.endswith(".gate_up_proj"):
        for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2, -2), strict=True):
            yield f"{name.removesuffix('gate_up_proj')}{part}.weight", half
    else:
        yield name if name.endswith((".weight", ".bias")) else f"{name}.weight", tensor


def _rope_factors(config: Any) -> Tensor:
    """What llama.cpp divides each frequency by: the plain frequencies over those of Llama 3.1 (H / 2)."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    exponents = torch.arange(len(scaled), dtype=torch.float64) / len(scaled)
    return (config.rope_parameters["rope_theta"] ** -exponents / scaled).float()


def _stored(name: str, shape: torch.Size, values: Tensor, kind: str) -> Stored:
    """A tensor in the type that a file of this kind has it in."""
    import gguf

    types = gguf.GGMLQuantizationType
    wanted = types[kind.upper()]
    if len(shape) == 1 or name.endswith("ffn_gate_inp.weight"):
        wanted = types.F32
    elif shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = types.BF16
    return Stored(name, shape, values, wanted)


# The file -----------------------------------------------------------------------------------------


def _add(writer: Any, entries: Mapping[str, Any]) -> None:
    """Entries of a GGUF file, whole numbers as llama.cpp reads them, unsigned."""
    for key, value in entries.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def _write(writer: Any, path: Path, tensors: list[Stored]) -> None:
    """The file, a tensor after the other; a part of it is deleted.

    By the file's own write(): NumPy's tofile(), which the package uses, does not say that a disk is full.
    """
    import gguf

    for one in tensors:
        shape = gguf.quant_shape_to_byte_shape(one.shape, one.type)
        writer.add_tensor_info(one.name, shape, np.dtype(np.uint8), math.prod(shape), one.type)
    writer.open_output_file(path)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        for one in tensors:
            writer.write_padding(file, file.tell())
            rows = one.values.reshape(-1, one.shape[-1])
            for part in rows.split(max(1, AT_ONCE // one.shape[-1])):
                file.write(_bytes(one, part))
        writer.write_padding(file, file.tell())
        writer.close()
    except BaseException:
        with contextlib.suppress(OSError):  # what is left to write does not fit a full disk either
            writer.close()
        path.unlink()
        raise


def _bytes(stored: Stored, rows: Tensor) -> memoryview:
    """Some rows of a tensor as they lie in the file."""
    from gguf import quants

    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(stored.type.name)
    values = rows.to("cpu", plain or torch.float32).contiguous()
    if plain == torch.float16 and not values.isfinite().all():
        raise ValueError(f"{stored.name} has weights that are too large for f16; take bf16 as the kind")
    return (
        quants.quantize(values.numpy(), stored.type) if plain is None else values.view(torch.uint8).numpy()
    ).data
