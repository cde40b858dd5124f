"""How long a text decoders take: what they say, against what they do."""

from typing import Any

import pytest
import torch
import transformers
from tiny import COMMON, GPT2

from models.positions import longest_text, stored_positions

OPT = {"vocab_size": 50, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
NEO = {"vocab_size": 50, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
LIMIT = {"max_position_embeddings": 12}
# By architecture: the config, and whether longer texts cannot be computed.
DECODERS: dict[str, tuple[dict[str, Any], bool]] = {
    "Llama": (COMMON | LIMIT, False),
    "Phi": (COMMON | LIMIT, False),
    "GPTNeoX": (COMMON | LIMIT, False),
    "GPT2": (GPT2 | {"n_positions": 12}, True),
    "GPTBigCode": (GPT2 | {"n_positions": 12}, True),
    "OPT": (OPT | LIMIT | {"word_embed_proj_dim": 16}, True),
    "GPTNeo": (NEO | LIMIT | {"attention_types": [[["global", "local"], 1]]}, True),
    "BioGpt": (COMMON | LIMIT, True),
    "GPTJ": (GPT2 | {"n_positions": 12, "rotary_dim": 4}, True),
    "CodeGen": (GPT2 | {"n_positions": 12, "rotary_dim": 4, "n_head": 4}, True),
    "Bloom": ({"vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 2}, False),
    "Mamba": ({"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}, False),
}


@pytest.mark.parametrize("name", DECODERS)
def test_the_longest_text_is_the_longest_that_can_be_computed(name: str) -> None:
    options, bounded = DECODERS[name]
    config = getattr(transformers, f"{name}Config")(
        **options | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert longest_text(config) == (None if name in ("Bloom", "Mamba") else 12)
    assert stored_positions(model) == (12 if bounded else None)
    tokens_BT = torch.randint(2, 50, (1, 13))
    with torch.no_grad():
        model(input_ids=tokens_BT[:, :12], use_cache=False)
        if bounded:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=tokens_BT, use_cache=False)
        else:
            model(input_ids=tokens_BT, use_cache=False)
