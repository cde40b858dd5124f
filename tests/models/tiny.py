"""Tiny random decoders of every architecture that is promised to work, made in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Two threads would wait for each other longer than they work.
torch.set_num_threads(1)

COMMON = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
NO_GROUPS = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
# By the name of the model class without ForCausalLM. GPT-2, NeoX and Phi have a plain FFN and biases;
# Gemma 2 and 3 and OLMo2 norm what comes out of theirs; some have windows.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": COMMON | {"num_key_value_heads": 1},
    "Qwen2": COMMON,
    "Qwen3": COMMON | {"head_dim": 8},
    "Gemma": COMMON | {"head_dim": 16, "num_key_value_heads": 1},
    "Gemma2": COMMON | {"head_dim": 8, "sliding_window": 4},
    "Gemma3": COMMON | {"head_dim": 8, "sliding_window": 4},
    "Mistral": COMMON | {"sliding_window": 4},
    "Olmo2": COMMON,
    "Phi": COMMON,
    "GPTNeoX": NO_GROUPS,
    "GPT2": GPT2,
}
# Layers that differ (of OLMo-Hybrid one has a norm behind its FFN), and activations with weights.
ODD: dict[str, dict[str, Any]] = {
    "OlmoHybrid": COMMON | {"layer_types": ["linear_attention", "full_attention"]},
    "Apertus": COMMON,
    "Mistral-prelu": COMMON | {"hidden_act": "prelu"},
}
POST_NORMED = ("Gemma2", "Gemma3", "Olmo2")


def make(name: str = "Llama", seed: int = 1, **changes: Any) -> Any:
    """A model of the architecture, in eval mode, that no dropout makes noisy. changes: in its config."""
    import transformers

    entries, name = (ARCHITECTURES | ODD)[name] | changes, name.partition("-")[0]
    config_class = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, config_class)(**entries)
    # Gradients and caches of tiny models drown in noise at the usual 0.02.
    config.initializer_range = 0.2
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def shake(model: Any, seed: int = 2) -> None:
    """Trainable weights moved at random, so that what was added does something."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def logits(model: Any, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens_BT).logits


def tokens(rows: int = 2, length: int = 9) -> Tensor:
    drawn = torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(0), device="cpu")
    return drawn.to(torch.get_default_device())


def rounded(model: Any) -> Any:
    """The model in bf16, but for what is no weight: rotary frequencies stay exact, as in a loaded model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.config.dtype = torch.bfloat16
    return model
