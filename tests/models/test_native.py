"""Native twins are the extended models that they stand for, in classes that transformers has itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_export import Words, read_elsewhere
from tiny import logits, make, rounded, shake, tokens

from models.backbone import load_backbone
from models.export import EXPORTED, export
from models.extend import ExtendError, extend
from models.native import FINE, KINDS, NoTwinError, native, padded_widths

SCALED = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8}
# Backbones whose attention a mixture of experts has, by their config's entries.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama 3.1": ("Llama", {"rope_parameters": SCALED, "max_position_embeddings": 64}),
    "Llama, yarn": ("Llama", {"rope_parameters": YARN, "max_position_embeddings": 32}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Qwen 2": ("Qwen2", {}),
    "Qwen 3": ("Qwen3", {}),
    "Qwen 3, heads of 4": ("Qwen3", {"head_dim": 4}),
}


SIGMOID = {"gate": "sigmoid", "gate_bias": False}


def stacked(name: str, blocks: int, **changes: Any) -> Any:
    """A tiny decoder with blocks of different widths, whose gates are sigmoids without bias."""
    kind, entries = BACKBONES.get(name, (name, {}))
    model = make(kind, **entries | changes)
    for number in range(blocks):
        extend(model, "neutral", fraction=0.3 + 0.2 * number, gate="sigmoid", gate_bias=False)
        shake(model, number)
    return model.requires_grad_(False)


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_twin_is_the_model_that_it_stands_for(name: str, blocks: int) -> None:
    alone, kinds = logits(stacked(name, 0), tokens()), []
    for kind in KINDS:
        model = stacked(name, blocks)
        expected = logits(model, tokens())
        how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        written = model.generate(tokens(), **how)
        try:
            twin = native(model, [kind]).model
        except NoTwinError:
            continue
        kinds.append(kind)
        error = (logits(twin, tokens()) - expected).abs().max()
        assert error <= 2e-6 and (kind != "qwen2_moe" or error < 1e-6), kind
        assert torch.equal(twin.generate(tokens(), **how), written)
        assert torch.equal(twin.generate(tokens(), **how, use_cache=False), written)
        assert type(twin).__module__.startswith("transformers.models.")
        assert not any("neutral" in key for key in twin.config.to_dict())
    assert (expected - alone).abs().max() > 0.3  # that a twin without blocks would be off by
    only_one = ["qwen2_moe"] * (not name.startswith("Qwen 3")) + ["granite"] * (not name.startswith("Qwen"))
    assert sorted(kinds) == sorted(["glm4_moe"] + only_one * (blocks == 1))


@pytest.mark.parametrize("blocks", [1, 2])
def test_in_bf16_a_twin_errs_as_its_model_does(blocks: int) -> None:
    exact = stacked("Llama", blocks)
    for parameter in exact.parameters():
        parameter.data = parameter.data.bfloat16().float()
    expected = logits(exact, tokens())
    ours = rounded(stacked("Llama", blocks))
    error = (logits(ours, tokens()).float() - expected).pow(2).mean().sqrt()
    for kind in ("glm4_moe", *(["qwen2_moe", "granite"] if blocks == 1 else [])):
        twin = native(rounded(stacked("Llama", blocks)), [kind]).model
        wide = [name for name, weight in twin.named_parameters() if weight.dtype != torch.bfloat16]
        assert not [name for name in wide if not name.endswith("mlp.gate.weight")]
        theirs = (logits(twin, tokens()).float() - expected).pow(2).mean().sqrt()
        assert theirs < 1.3 * error, kind


def test_blocks_without_a_gate_are_width_beside_experts() -> None:
    model = stacked("Llama", 1)
    extend(model, "adapter", fraction=0.4)
    shake(model, 7)
    model.requires_grad_(False)
    expected, width = logits(model, tokens()), model.config.intermediate_size
    twin = native(model).model
    torch.testing.assert_close(logits(twin, tokens()), expected, rtol=0, atol=2e-6)
    assert type(twin).__name__ == "Qwen2MoeForCausalLM" and twin.config.moe_intermediate_size > width


def test_a_twin_of_an_untied_head_is_untied_and_a_tied_one_is_copied() -> None:
    for tied in (True, False):
        model = stacked("Llama", 2, tie_word_embeddings=tied)
        twin = native(model, ["glm4_moe"]).model
        assert not twin.config.tie_word_embeddings
        head, embeddings = twin.get_output_embeddings().weight, twin.get_input_embeddings().weight
        assert torch.equal(head, embeddings) == tied


@pytest.mark.parametrize(
    ("name", "changes", "how", "message"),
    [
        ("Llama", {}, {"gate": "elu"}, "no server has the elu gate; with `gate: sigmoid` and `gate_bias: false`"),
        ("Llama", {}, {"gate": "relu"}, "no server has the relu gate"),
        ("Llama", {}, {"gate": "sigmoid"}, "no server has the gate with a bias; with `gate: sigmoid` and"),
        ("Gemma", {}, SIGMOID, "beside the FFN of GemmaForCausalLM; without them"),
        ("Olmo2", {}, SIGMOID, "beside the FFN of Olmo2ForCausalLM; without them"),
        (
            "Gemma2",
            {},
            {"gate": "relu", "placement": "after_norm"},
            "behind a norm; with `placement: before",
        ),
        ("Mistral", {}, SIGMOID, "the sliding window of MistralForCausalLM"),
        (
            "Llama",
            {"hidden_act": "gelu"},
            {"gate": "sigmoid", "gate_bias": False},
            "SiLU, and the activation is 'g",
        ),
        ("Llama", {"mlp_bias": True}, SIGMOID, "has biases here that no such"),
        (
            "Llama",
            {"attention_bias": True},
            {"gate": "sigmoid", "gate_bias": False},
            "has biases here that no such",
        ),
    ],
)
def test_what_has_no_twin_says_why_and_what_would(
    name: str, changes: dict[str, Any], how: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = make(name, **changes)
    extend(model, "neutral", fraction=0.5, **how)
    shake(model)
    with pytest.raises(NoTwinError) as error:
        native(model)
    assert message in str(error.value)
    written = export(rounded(model), Words(), tmp_path)
    assert written.has_code and message in written.why and (tmp_path / EXPORTED).exists()


@pytest.mark.slow
def test_native_folders_are_read_by_transformers_alone(tmp_path: Path) -> None:
    """Without trust_remote_code, with and without a cache, and by readers that know older names of positions."""
    cases = [("Llama, tied", 1), ("Llama 3.1", 2), ("Llama, yarn", 1), ("Qwen 2", 1), ("Qwen 3, heads of 4", 2)]
    expected, folders = [], []
    for number, (name, blocks) in enumerate(cases):
        model = rounded(stacked(name, blocks)).float()
        how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected.append((model.generate(tokens(), **how).tolist(), logits(model, tokens())[0, -1, :4].tolist()))
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        written = export(rounded(stacked(name, blocks)), Words(), folders[-1])
        assert not written.has_code and not (folders[-1] / EXPORTED).exists()
        config = json.loads((folders[-1] / "config.json").read_text())
        assert "auto_map" not in config and config["rope_theta"] == config["rope_parameters"]["rope_theta"]
        scaled = BACKBONES[name][1].get("rope_parameters", {})
        assert (config.get("rope_scaling") or {}).get("rope_type") == scaled.get("rope_type")
        if config["model_type"] == "glm4_moe":
            assert config["partial_rotary_factor"] == 1.0 and config["head_dim"]
    for (out, sample), seen in zip(expected, read_elsewhere(folders, tmp_path), strict=True):
        assert seen["logits"] == pytest.approx(sample, abs=2e-6) and seen["out"] == [out, out]
        assert seen["class"] in ("Qwen2MoeForCausalLM", "Glm4MoeForCausalLM")


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_native_folder_is_a_model_here_but_no_backbone(blocks: int, tmp_path: Path) -> None:
    expected = logits(rounded(stacked("Llama", blocks)).float(), tokens())
    export(rounded(stacked("Llama", blocks)), Words(), tmp_path)
    model = load_backbone(str(tmp_path), dtype=torch.float32)
    torch.testing.assert_close(logits(model, tokens()), expected, rtol=0, atol=2e-6)
    with pytest.raises(ExtendError, match="its FFN is a mixture of experts"):
        extend(model, "neutral")


def test_an_export_with_code_is_a_choice(tmp_path: Path) -> None:
    written = export(rounded(stacked("Llama", 1)), Words(), tmp_path, code="as asked")
    assert written.has_code and (tmp_path / EXPORTED).exists()


@given(st.integers(1, 20_000), st.lists(st.integers(1, 5000), min_size=1, max_size=4), st.integers(0, 2))
def test_padding_holds_all_and_is_small(ffn: int, blocks: list[int], spare: int) -> None:
    experts = len(blocks) + spare
    shared, width = padded_widths(ffn, blocks, experts)
    assert shared * width >= ffn and width >= max(blocks) and width % FINE == 0
    assert (shared - 1) * width < ffn  # no shared expert is all zeros
    assert shared * width - ffn < max(FINE * (ffn // max(blocks) + 2), max(blocks) + 256)
