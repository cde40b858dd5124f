"""Exports with blocks: without consent to their code nothing loads them, with it everything does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_export import addition
from test_foreign import make_words
from tiny import ODD, logits, make, rounded, shake, tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from models.adapter import attach
from models.backbone import load_backbone, load_tokenizer, unique_parameters
from models.block import close_gates
from models.export import describe_blocks, export
from models.extend import decoder_layers, extend, trainable_state

TRUST: dict[str, Any] = {"trust_remote_code": True, "dtype": torch.float32, "attn_implementation": "eager"}


@pytest.fixture(autouse=True)
def nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda asked: "no")


def exported(folder: Path, name: str = "Llama", threshold: float = 0.0, **how: Any) -> Any:
    """The model whose export is now in `folder`, in fp32; its gates count as closed up to the threshold."""
    words = Tokenizer(models.WordLevel({"<end>": 0} | {f"w{i}": i for i in range(1, 50)}, unk_token="<end>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    one = addition(name, "neutral", **how)
    model = rounded(make(name))
    attach(model, [one])
    close_gates(model, threshold)
    folder.mkdir()
    assert export(model, PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>"), folder).has_code  # noqa: S106
    return model.float()


LLAMA, GPT2 = transformers.LlamaForCausalLM, transformers.GPT2LMHeadModel
WAYS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "config": ("Llama", AutoConfig.from_pretrained),
    "refused": ("Llama", lambda folder: AutoConfig.from_pretrained(folder, trust_remote_code=False)),
    "causal": ("Llama", AutoModelForCausalLM.from_pretrained),
    "base": ("Llama", AutoModel.from_pretrained),
    "pipeline": ("Llama", lambda folder: pipeline("text-generation", str(folder))),
    "class": ("Llama", LLAMA.from_pretrained),
    "class of the base": ("Llama", transformers.LlamaModel.from_pretrained),
    "class, and how": (
        "Llama",
        lambda folder: LLAMA.from_pretrained(folder, attn_implementation="eager", ignore_mismatched_sizes=True),
    ),
    "its config": (
        "Llama",
        lambda folder: AutoModelForCausalLM.from_pretrained(
            folder, config=transformers.LlamaConfig.from_pretrained(folder)
        ),
    ),
    "another class": ("Llama", transformers.Qwen2ForCausalLM.from_pretrained),
    "a class with names of its own": ("GPT2", GPT2.from_pretrained),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_without_consent_each_way_names_the_cure(way: str, tmp_path: Path) -> None:
    name, load = WAYS[way]
    exported(tmp_path / "out", name)
    with pytest.raises(Exception, match="trust_remote_code=True"):
        load(tmp_path / "out")


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Olmo2"])
def test_the_backbones_config_gives_the_backbone(name: str, tmp_path: Path) -> None:
    """No class knows then that there is more; but it draws no weight at random."""
    exported(tmp_path / "out", name)
    plain = rounded(make(name)).float()
    loaded, report = type(plain).from_pretrained(
        tmp_path / "out", config=plain.config, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"] and report["unexpected_keys"]
    assert torch.equal(logits(loaded, tokens()), logits(plain, tokens()))


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_the_tokenizer_needs_no_consent(name: str, tmp_path: Path) -> None:
    exported(tmp_path / "out", name)
    for load in (AutoTokenizer.from_pretrained, load_tokenizer):
        assert load(str(tmp_path / "out"))("w1 w2")["input_ids"] == [1, 2]


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Gemma2"])
def test_with_consent_it_is_a_model_like_others(name: str, tmp_path: Path) -> None:
    model = exported(tmp_path / "out", name, placement="after_norm")
    expected = logits(model, tokens())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **TRUST)
    assert torch.equal(logits(loaded, tokens()), expected)
    assert loaded.config.get_text_config().hidden_size == 16
    with torch.no_grad():
        base = AutoModel.from_pretrained(tmp_path / "out", **TRUST)(tokens())[0]
        assert torch.equal(base, loaded.base_model(tokens())[0])
        other = copy.deepcopy(loaded)
        for parameter in other.parameters():
            parameter.zero_()
        other(tokens())
    assert torch.equal(logits(loaded, tokens()), expected)

    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", **TRUST)
    torch.testing.assert_close(logits(again, tokens()), expected)
    ours = load_backbone(str(tmp_path / "again"), dtype=torch.float32)
    torch.testing.assert_close(logits(ours, tokens()), expected)
    for load in (AutoConfig.from_pretrained, type(make(name)).from_pretrained):
        with pytest.raises(Exception, match="trust_remote_code=True"):
            load(tmp_path / "again")

    tuned = peft.get_peft_model(loaded, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    assert any("blocks" in key for key in tuned.state_dict() if "lora" in key)
    assert not torch.allclose(logits(tuned, tokens()), expected, atol=1e-3)


@pytest.mark.parametrize("gate", ["relu", "elu"])
def test_an_export_goes_on_with_its_threshold(gate: str, tmp_path: Path) -> None:
    """And computes to the bit what the model did: the same tokens, in the same products."""
    with torch.no_grad():
        model = exported(tmp_path / "out", threshold=0.5, gate=gate)
        expected = logits(model, tokens())
        close_gates(model, 10.0)
        assert not torch.allclose(logits(model, tokens()), expected, atol=1e-3)
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **TRUST)
    ours = load_backbone(str(tmp_path / "out"), dtype=torch.float32)
    for one in (loaded, ours):
        assert torch.equal(logits(one, tokens()), expected)
        cached, whole = (one.generate(tokens(), use_cache=cache, **how) for cache in (True, False))
        assert torch.equal(cached, whole)
    close_gates(ours, 10.0)  # an export's gates too
    assert torch.equal(logits(ours, tokens()), logits(model, tokens()))


def test_no_file_names_a_place(tmp_path: Path) -> None:
    rounded(make()).save_pretrained(tmp_path / "backbone")
    model, one = load_backbone(str(tmp_path / "backbone")), addition("Llama", "neutral")
    attach(model, [one])
    (tmp_path / "out").mkdir()
    export(model, make_words(), tmp_path / "out")
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_an_export_of_before_is_loaded(tmp_path: Path) -> None:
    """It had the backbone's model_type, and the names that weights have in training."""
    adds = [addition("Olmo2", "adapter", 5), addition("Olmo2", "neutral", placement="after_norm")]
    model = rounded(make("Olmo2"))
    attach(model, adds)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    about = describe_blocks(model) | {"activation": "act_fn"}
    auto_map = {"AutoModelForCausalLM": "modeling_neutral.ExtendedForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"neutral_residues": about, "auto_map": auto_map}))
    assert "model.layers.0.post_feedforward_layernorm.norm.weight" in load_file(tmp_path / "model.safetensors")
    loaded = load_backbone(str(tmp_path))
    assert torch.equal(logits(loaded, tokens()), logits(model, tokens()))


@pytest.mark.parametrize("name", list(ODD))
def test_layers_that_differ_and_activations_with_weights(name: str, tmp_path: Path) -> None:
    model = exported(tmp_path / "out", name, placement="after_norm")
    expected = logits(model, tokens())
    if name == "OlmoHybrid":
        assert [one.mlp.after_norm for one in decoder_layers(model)] == [False, True]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **TRUST)
    assert torch.equal(logits(loaded, tokens()), expected)
    assert torch.equal(logits(load_backbone(str(tmp_path / "out"), dtype=torch.float32), tokens()), expected)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == loaded.state_dict().keys()
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", **TRUST)
    torch.testing.assert_close(logits(again, tokens()), expected)


@pytest.mark.parametrize("name", ["Apertus", "Mistral-prelu"])
def test_a_block_shares_the_activation_of_its_ffn(name: str, tmp_path: Path) -> None:
    """Its weights belong to the backbone, are there once, and are trained once where all of it is."""
    model = make(name)
    count, names = unique_parameters(model), set(model.state_dict())
    extension = extend(model, "neutral")
    assert extension.backbone_parameters == count
    assert len(model.state_dict()) == len(names) + 2 * 5
    shake(model)
    extend(model, "finetune")
    save_file(trainable_state(model), tmp_path / "weights.safetensors")
    before = logits(model, tokens())
    activation = decoder_layers(model)[0].mlp.ffn.act_fn
    weight = next(activation.parameters())
    with torch.no_grad():
        weight += 1
    x_D = torch.randn(16)
    block = decoder_layers(model)[0].mlp.block
    hidden_M = block.gate_proj(x_D)
    assert torch.equal(block.activation(hidden_M), activation(hidden_M))
    assert not torch.allclose(logits(model, tokens()), before)
    other = copy.deepcopy(model)
    assert other.model.layers[0].mlp.block.activation.__self__ is other.model.layers[0].mlp.ffn.act_fn
