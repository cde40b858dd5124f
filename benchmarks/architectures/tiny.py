"""Tiny random models of every architecture of causal language models that the installed transformers has.

A config of the defaults is made small by its own keys: what a key is called says what it counts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.data.texts import open_corpus

VOCABULARY, LENGTH, ROW = 260, 64, 12  # entries; positions that a model knows; tokens of a row
END = "<|endoftext|>"
MOST_WEIGHTS, SPREAD = 5_000_000, 0.05
# A size by the name of its key; the first pattern that fits the whole name counts. None: as it is.
SIZES: list[tuple[str, int | None]] = [
    (r".*(dropout|pdrop|drop).*|.*_eps(ilon)?|.*(factor|scale|std|theta|coef|multiplier|range)", None),
    (r"vocab_size|.*_vocab_size|vocab_size_.*|n_words|max_vocab.*", VOCABULARY),
    (r"(bos|eos|pad|decoder_start|forced_.*|cls|sep|mask|unk)_(token_)?(id|index)|lang_id", 0),
    (r".*token_(id|index)|image_token.*", 1),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length|.*target_positions"
     r"|max_sequence_length|.*seq_length|seq_length|max_.*positions", LENGTH),
    (r".*(window|window_size|attention_chunk_size)|rel_extent|index_topk", 8),
    (r"(hybrid_)?.*(kv_heads|key_value_heads|kv_n_heads|query_groups)", 2),
    (r".*(num_|n_|_|^)(heads?|attention_heads|heads_per_ngram)|num_heads", 4),
    (r"head_dim|.*_head_dim|d_kv|d_head|dim_head|kv_channels|attention_head_(dim|size)|rotary_dim", 8),
    (r".*(lora_rank|_lowrank|_rank|time_step_rank)", 8),
    (r".*(period|interval|every_n_layers|sliding_window_pattern|layer_group_size|every)|.*layer_step", 2),
    (r"attn_layer_offset|expert_layer_offset|first_k_dense_replace|num_dense_layers", 1),
    (r".*(topk_group|n_group|num_expert_group)", 1),
    (r".*(experts_per_tok|experts_per_token|moe_topk|top_k|topk|moe_k)", 2),
    (r".*(shared_experts?|_expert_num)", 1),
    (r".*num_(local_|routed_)?experts|n_routed_experts", 4),
    (r"(num_|n_)?(hidden_|decoder_|encoder_)?layers?|num_blocks|depth|num_layers_per_stack", 4),
    (r"n_(input|output|recurrent)_layers", 1),
    (r"num_kv_shared_layers", 2),
    (r".*(intermediate_size.*|ffn_dim|ffn_hidden_size|dim_ff|dff|n_inner|d_inner|d_ff|feed_forward_size"
     r"|mlp_hidden_size)", 48),
    (r"codebook_size", 64),
    (r"adapter_(in_dim|out_dim|input_size)|.*(hidden_size.*|d_model|n_embd|emb_dim|embedding_(dim|size)|embed_dim|word_embed_proj_dim|lru_width"
     r"|mamba_d_ssm|dim_model|input_embedding_size|output_embedding_size)", 32),
    (r".*(state_size|d_state|chunk_size|block_size|index_n_heads)", 8),
]  # fmt: skip

HYBRID = ["linear_attention", "full_attention"] * 2
# What the rules above do not find: keys that are empty, lists, and sizes that must fit others.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1, 3]},
    "blenderbot": {"encoder_layers": 4},
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_size": [3, 4]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["full_attention"] * 4,
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "doge": {"keep_window_size": 64},  # behind it a token that comes twice is kept once, by chance
    "dory": {"n_recurrent_layers": None},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "num_key_value_heads": 4,
        "head_dim": 16,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "gemma3n_text": {"intermediate_size": [48] * 4, "hidden_size_per_layer_input": 16, "vocab_size": 292,
                     "activation_sparsity_pattern": [0.95, 0.0, 0.95, 0.0]},
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 4}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"mamba_d_head": 16, "layer_types": HYBRID},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "kimi_linear": {"layer_types": HYBRID},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"num_layers": 2, "qk_head_dim": 16},
    "mamba2": {"head_dim": 16, "n_groups": 2},
    "minicpm3": {"dim_model_base": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"mamba_head_dim": 16, "n_groups": 2},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
                       "indexer_compress_ratio": 2, "layer_types": ["linear_attention", "indexed_attention"] * 2},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"] * 2, "axial_pos_shape": [8, 8],
                 "axial_pos_embds_dim": [16, 16]},
    "xlnet": {"d_head": 8},
    "xlstm": {"num_heads": 2, "chunk_size": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1, "attention_head_dim": 16,
              "attention_hidden_size": 64},
    "zamba2": {"num_hidden_layers": 6, "num_query_groups": 4, "attention_hidden_size": 64,
               "attention_head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "mamba_headdim": 16,
               "layers_block_type": ["linear_attention", "hybrid"] * 3},
}  # fmt: skip


def architectures() -> list[str]:
    """The model types that transformers has a causal language model for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    from transformers import AutoConfig

    config_class = type(AutoConfig.for_model(model_type))
    return config_class(**shrunk(config_class()))


def shrunk(config: Any) -> dict[str, Any]:
    """The keys of a config, and of those inside it, that make it small."""
    small: dict[str, Any] = {"is_decoder": True} if "is_decoder" in config.to_dict() else {}
    for key, value in config.to_dict().items():
        if key in config.sub_configs and getattr(config, key) is not None:
            small[key] = shrunk(getattr(config, key))
        elif isinstance(value, int) and not isinstance(value, bool) and (size := size_of(key)) is not None:
            small[key] = min(value, size)
    if "per_layer_config" in config.to_dict():
        small["per_layer_config"] = {}
    if "kv_lora_rank" in small:  # latent attention has no groups of heads
        small["num_key_value_heads"] = small["num_attention_heads"]
    own = OWN.get(config.model_type, {})
    return small | {key: small[key] | value if key in config.sub_configs else value for key, value in own.items()}


def size_of(key: str) -> int | None:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)


def make(model_type: str, seed: int = 1) -> Any:
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type)
    with torch.device("meta"):
        sketch = AutoModelForCausalLM.from_config(config)
    if (count := sum(w.numel() for w in sketch.parameters())) > MOST_WEIGHTS:
        raise ValueError(f"{count:,} weights")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # so that no bias is zero, no norm does nothing, and one token's effect is no rounding
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * SPREAD)
    return model


def tokenizer(folder: Path) -> Any:
    """One entry for each byte, and the end of a text; some architectures have tokenizers of bytes alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)
    plain = Tokenizer(models.BPE({END: 0} | {letter: number for number, letter in letters}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, model_max_length=ROW)
    fast.save_pretrained(folder)
    return fast


def write_rows(folder: Path, backbone: Path) -> None:
    """`rows.arrow` in the folder, of random digits."""
    random = np.random.default_rng(0)
    text = folder / "text.jsonl"
    lines = ["".join(map(str, random.integers(0, 10, 30))) for _ in range(6)]
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    open_corpus(str(text), str(backbone), str(folder))
