"""mask_documents is refused where a backbone would not keep documents apart."""

from typing import Any

import pytest
from device import DEVICE
from tiny import ARCHITECTURES, COMMON, make
from transformers import BloomConfig, BloomForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from pipeline.common.errors import StageError
from train.trainer.documents import check_documents_apart


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "Gemma2"])
def test_attention_with_positions_keeps_documents_apart(name: str, attention: str) -> None:
    model = make(name)
    model.set_attn_implementation(attention)
    check_documents_apart(model.to(DEVICE), DEVICE)


def hybrid() -> Any:
    """A recurrent layer, behind which there is one with attention."""
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    kinds = {"linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**COMMON | {"head_dim": 8} | sizes | kinds)).eval()


def alibi() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)).eval()


@pytest.mark.parametrize("build", [hybrid, alibi])
@pytest.mark.parametrize("rounded", [False, True])
def test_what_does_not_is_refused_in_one_line(build: Any, rounded: bool) -> None:
    model = build()
    with pytest.raises(StageError, match=r"^mask_documents: .*; set it to false[^\n]*$"):
        check_documents_apart((model.bfloat16() if rounded else model).to(DEVICE), DEVICE)
