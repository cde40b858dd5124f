"""Saved and exported models are the models they were, and exports need nothing of this project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, POST_NORMED, logits, make, rounded, shake, tokens

from models.adapter import (
    AdapterError,
    SavedExtension,
    attach,
    describe_backbone,
    load_adapter,
    save_adapter,
)
from models.export import EXPORTED, describe_blocks, export
from models.extend import decoder_layers, extend, load_trainable, trainable_state
from models.native import fold

GATED = ("Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3", "Mistral", "Olmo2")
HOW = {"fraction": 0.5, "gate": "elu", "gate_bias": True, "init": "he", "placement": "before_norm", "seed": 0}


class Words:
    """As much of a tokenizer as export needs."""

    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "tokenizer_config.json").write_text("{}")


def addition(name: str, method: str, seed: int = 3, **changes: Any) -> SavedExtension:
    """An addition with weights at random, for an architecture."""
    how = HOW | {"method": method} | changes
    model = make(name)
    how["width"] = extend(model, **how).width
    shake(model, seed)
    state = {name: weight.bfloat16().float() for name, weight in trainable_state(model).items()}
    training = {"options": {"learning_rate": 1e-2, "steps": 5}, "tokens": 1234, "true_fraction": 0.5}
    return SavedExtension(how, state, {"languages": {"old": ["en"], "new": "fr"}, "training": training})


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("method", ["adapter", "lora"])
def test_what_can_be_folded_becomes_a_plain_model(name: str, method: str) -> None:
    model = make(name).double()
    extend(model, method, fraction=0.5)
    shake(model)
    model.double()
    before = logits(model, tokens())
    if method == "lora":
        from models.extend import merge_lora

        merge_lora(model)
    folded = fold(model)
    tolerance = 1e-4 if method == "lora" else 1e-9  # LoRA is merged in fp32
    torch.testing.assert_close(logits(model, tokens()), before, rtol=tolerance, atol=tolerance)
    assert folded == (method == "lora" or name in GATED)
    added = any("block" in weight or "lora" in weight for weight, _ in model.named_parameters())
    assert added == (not folded)


@pytest.mark.parametrize("how", [{"gate": "relu"}, {"gate": "none", "placement": "after_norm"}])
def test_what_cannot_be_folded_stays(how: dict[str, str]) -> None:
    model = make("Gemma2")
    extend(model, "adapter", fraction=0.5)
    extend(model, "neutral", fraction=0.5, **how)
    shake(model)
    before = logits(model, tokens())
    assert not fold(model) and model.config.intermediate_size > 24
    torch.testing.assert_close(logits(model, tokens()), before)
    norm = "post_feedforward_layernorm" if "placement" in how else None
    width = decoder_layers(model)[0].mlp.block.up_proj.out_features
    blocks = describe_blocks(model)["blocks"]
    about = {"width": width, "gate": how["gate"], "bias": how["gate"] != "none", "norm": norm}
    assert blocks == [about | {"threshold": 0.0}]


# Loads each exported folder, in a process that cannot import this project, and writes down what it does.
READER = """
import json, sys, torch
for name in ("models", "train", "pipeline"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
from transformers import AutoModelForCausalLM
tokens = torch.tensor(json.loads(sys.argv[1]))
for folder in sys.argv[2:]:
    plain = "auto_map" not in json.load(open(folder + "/config.json"))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=not plain)
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = [model.generate(tokens, use_cache=cache, **how).tolist() for cache in (True, False)]
    with torch.no_grad():
        sample = model(tokens).logits[0, -1, :4].tolist()
    print(json.dumps({"out": out, "logits": sample, "class": type(model).__name__}))
"""


def read_elsewhere(folders: list[Path], tmp_path: Path) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    # -P: the working folder is no place to import from; an installed copy of the project is hidden.
    script = tmp_path / "reader.py"
    hide = "import sys\nfor x in ('models', 'train', 'pipeline'): sys.modules[x] = None\n"
    script.write_text(hide + READER)
    command = [sys.executable, "-P", str(script), json.dumps(tokens().tolist()), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_exports_run_elsewhere_to_the_same_tokens(tmp_path: Path) -> None:
    """Every architecture with a neutral block; and what folds, stacks and stands behind a norm."""
    cases: list[tuple[str, list[SavedExtension]]] = [(name, [addition(name, "neutral")]) for name in ARCHITECTURES]
    cases += [("Llama", [addition("Llama", method)]) for method in ("adapter", "lora", "finetune")]
    cases += [(name, [addition(name, "neutral", placement="after_norm", gate="relu")]) for name in POST_NORMED]
    cases += [("GPT2", [addition("GPT2", "adapter")]), ("Gemma", [addition("Gemma", "adapter")])]
    two = [addition("Qwen3", "neutral"), addition("Qwen3", "neutral", 4, gate="sigmoid", gate_bias=False)]
    cases += [("Qwen3", two), ("Qwen3", [addition("Qwen3", "adapter"), two[0]])]
    plain_ones = [11, 12, 13, 18]
    other_sums = [*plain_ones, 20]  # of which 12, LoRA, is rounded to bf16 when merged
    expected, folders = [], []
    for number, (name, additions) in enumerate(cases):
        model = make(name)
        attach(model, additions)
        model.float()  # fp32 is faster here
        how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected.append((model.generate(tokens(), **how).tolist(), logits(model, tokens())[0, -1, :4].tolist()))
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        assert export(rounded(model), Words(), folders[-1]).has_code == (number not in plain_ones), name
        assert (folders[-1] / EXPORTED).exists() == (number not in plain_ones)
    elsewhere = read_elsewhere(folders, tmp_path)
    for number, ((name, _), (out, sample), seen) in enumerate(zip(cases, expected, elsewhere, strict=True)):
        if number in other_sums:
            assert seen["logits"] == pytest.approx(sample, abs=2e-2 if number == 12 else 1e-5), name
        else:
            assert seen["logits"] == sample, name
            assert seen["out"][0] == out, name
        assert seen["out"][0] == seen["out"][1], name
        assert (seen["class"] == "ExtendedForCausalLM") == (number not in plain_ones)
    assert json.loads((folders[0] / "config.json").read_text())["dtype"] == "bfloat16"


# Saved small --------------------------------------------------------------------------------------


def saved(tmp_path: Path, *additions: SavedExtension, name: str = "Llama") -> Path:
    """A backbone's folder and, beside it, the adapter's."""
    rounded(make(name)).save_pretrained(tmp_path / "backbone")
    (tmp_path / "adapter").mkdir()
    backbone = rounded(make(name))
    named = {"name": "backbone", "source": None, "revision": None}
    save_adapter(tmp_path / "adapter", named, backbone, list(additions))
    return tmp_path / "adapter"


@pytest.mark.parametrize("method", ["finetune", "lora", "adapter", "neutral"])
def test_saved_and_loaded_is_the_same_model(tmp_path: Path, method: str) -> None:
    additions = [addition("Llama", method)]
    if method == "neutral":  # on another language's
        additions.insert(0, addition("Llama", "adapter", 5))
    folder = saved(tmp_path, *additions)
    model = rounded(make())
    attach(model, additions)
    again = load_adapter(folder, str(tmp_path / "backbone"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(logits(model, tokens()), logits(again, tokens()))
    about = json.loads((folder / "adapter.json").read_text())
    assert about["backbone"]["name"] == "backbone"
    entry = about["additions"][-1]
    assert entry["how"]["method"] == method and entry["languages"] == {"old": ["en"], "new": "fr"}
    assert entry["training"]["tokens"] == 1234
    trained = sum(weight.numel() for one in additions for weight in one.weights.values())
    assert (folder / "adapter.safetensors").stat().st_size < 2 * trained + 6000


def test_the_backbone_is_asked_for_by_its_digest(tmp_path: Path) -> None:
    folder = saved(tmp_path, addition("Llama", "neutral"))
    digest = describe_backbone(rounded(make()))["digest"]
    with pytest.raises(AdapterError, match=rf"backbone is backbone, a .* digest {digest}; give .*: --backbone"):
        load_adapter(folder)
    with pytest.raises(AdapterError, match=r"its backbone .*/none cannot be loaded .*give its folder: --backbone"):
        load_adapter(folder, str(tmp_path / "none"))


def test_an_adapter_of_before_is_loaded(tmp_path: Path) -> None:
    """It named the folder that its backbone lay in, and nothing else."""
    folder = saved(tmp_path, addition("Llama", "neutral"))
    about = json.loads((folder / "adapter.json").read_text())
    del about["backbone"]["name"]
    about["backbone"]["source"] = str(tmp_path / "backbone")
    (folder / "adapter.json").write_text(json.dumps(about))
    load_adapter(folder)
    (tmp_path / "backbone").rename(tmp_path / "moved")
    with pytest.raises(AdapterError, match=r"/backbone cannot be loaded .* --source .*/backbone`: --backbone"):
        load_adapter(folder)
    load_adapter(folder, str(tmp_path / "moved"))


@pytest.mark.parametrize("name", ["Llama", "GPT2", "GPTNeoX"])
def test_peft_alone_loads_a_saved_lora(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, addition(name, "lora"), name=name)
    ours = load_adapter(folder, str(tmp_path / "backbone"), dtype=torch.float32)
    where = {"dtype": torch.float32, "attn_implementation": "eager"}
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "backbone", **where)
    before = logits(plain, tokens())
    theirs = peft.PeftModel.from_pretrained(plain, folder)
    torch.testing.assert_close(logits(theirs, tokens()), logits(ours, tokens()))
    assert not torch.allclose(logits(theirs, tokens()), before, atol=1e-3)
    about = json.loads((folder / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "" and about["task_type"] == "CAUSAL_LM"
    assert (
        sorted(about["target_modules"])
        == {
            "Llama": ["down_proj", "gate_proj", "up_proj"],
            "GPT2": ["mlp.c_fc", "mlp.c_proj"],  # there is another c_proj
            "GPTNeoX": ["dense_4h_to_h", "dense_h_to_4h"],
        }[name]
    )
    written = b"".join(path.read_bytes() for path in folder.glob("*.json"))
    assert str(tmp_path).encode() not in written


@pytest.mark.parametrize("methods", [("adapter",), ("lora", "neutral"), ("lora", "lora")])
def test_what_peft_cannot_hold_is_not_written_for_it(methods: tuple[str, ...], tmp_path: Path) -> None:
    folder = saved(tmp_path, *(addition("Llama", method) for method in methods))
    assert {path.name for path in folder.iterdir()} == {"adapter.json", "adapter.safetensors"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fraction": 1e5}, "how.fraction is none that this program knows"),
        ({"fraction": float("nan")}, "how.fraction"),
        ({"fraction": "0.5"}, "how.fraction"),
        ({"method": "exec"}, "how.method"),
        ({"method": ["lora"]}, "how.method"),
        ({"gate": "exec"}, "how.gate"),
        ({"gate_bias": 1}, "how.gate_bias"),
        ({"init": None}, "how.init"),
        ({"placement": "forward"}, "how.placement"),
        ({"seed": -1}, "how.seed"),
        ({"seed": 2**64}, "how.seed"),
        ({"model": None}, "how.model is none that this program knows; update it"),
    ],
)
def test_a_recipe_is_data(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, addition("Llama", "neutral"))
    about = json.loads((folder / "adapter.json").read_text())
    about["additions"][0]["how"] |= changes
    (folder / "adapter.json").write_text(json.dumps(about))
    with pytest.raises(AdapterError, match=re.escape(message)):
        load_adapter(folder, str(tmp_path / "backbone"))


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
@pytest.mark.parametrize("width", [5, 67])
def test_a_width_is_the_one_that_was_built(method: str, width: int, tmp_path: Path) -> None:
    """And not what would be built today: older versions rounded a fraction to other widths."""
    one = addition("Llama", method, width=width)
    folder = saved(tmp_path, one)
    again = load_adapter(folder, str(tmp_path / "backbone"), dtype=torch.float32)
    model = rounded(make()).float()
    assert extend(rounded(make()), **one.extend_options | {"width": None}).width != width
    extend(model, method, width=width)
    load_trainable(model, one.weights)
    assert torch.equal(logits(model, tokens()), logits(again, tokens()))


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
@pytest.mark.parametrize(
    ("width", "message"),
    [
        (10**9, "its width of 1,000,000,000 asks for"), (10**40, "weights, and it has"), (2, "weights do not fit"),
        (0, "of width 0 adds nothing"), (-5, "of width -5 adds nothing"), (True, "width is no whole number"),
        (8.0, "width is no whole number"), ("8", "width is no whole number"), (None, "width is no whole number"),
    ],
)  # fmt: skip
def test_a_width_is_no_larger_than_what_is_there(method: str, width: Any, message: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, addition("Llama", method))
    about = json.loads((folder / "adapter.json").read_text())
    about["additions"][0]["width"] = width
    (folder / "adapter.json").write_text(json.dumps(about))
    with pytest.raises(AdapterError, match=re.escape(message)):
        load_adapter(folder, str(tmp_path / "backbone"))


@pytest.mark.parametrize(
    "content",
    [
        "[", "[]", "{}", "[" * 10**5, '{"format": 1, "additions": 3}', '{"format": 1, "additions": [3]}',
        '{"format": 1, "additions": [{"how": 3}]}', '{"format": 1, "additions": [], "backbone": 3}',
        '{"format": 1, "additions": [], "backbone": {"source": 3, "revision": null}}',
        '{"format": 1, "additions": [], "backbone": {"source": null, "revision": null, "digest": "x"}}',
        '{"format": 1, "additions": [], "backbone": {"name": "x", "source": 3, "revision": null, "digest": "x"}}',
    ],
)  # fmt: skip
def test_a_damaged_description_is_named(content: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, addition("Llama", "neutral"))
    (folder / "adapter.json").write_text(content)
    with pytest.raises(AdapterError, match="not a saved adapter, or a damaged one") as error:
        load_adapter(folder)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = saved(tmp_path, addition("Llama", "neutral"))
    rounded(make("Llama", seed=9)).save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterError, match="its weights are others, though the architecture is the same"):
        load_adapter(folder, str(tmp_path / "other"))
    rounded(make("Qwen2")).save_pretrained(tmp_path / "qwen")
    with pytest.raises(AdapterError, match="architecture is Qwen2ForCausalLM, not LlamaForCausalLM"):
        load_adapter(folder, str(tmp_path / "qwen"))
    about = json.loads((folder / "adapter.json").read_text())
    wrong = about | {"additions": [about["additions"][0] | {"width": 1}]}
    (folder / "adapter.json").write_text(json.dumps(wrong))
    backbone = str(tmp_path / "backbone")
    with pytest.raises(AdapterError, match=r"does not fit .*6 weights do not fit"):
        load_adapter(folder, backbone)
    (folder / "adapter.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(AdapterError, match="format 99, but this program reads 1"):
        load_adapter(folder)
    (folder / "adapter.json").write_text(json.dumps(about))
    tensors = load_file(folder / "adapter.safetensors")
    tensors.pop(min(tensors, key=lambda name: tensors[name].numel()))
    save_file(tensors, folder / "adapter.safetensors")
    with pytest.raises(AdapterError, match="1 weights do not fit"):
        load_adapter(folder, backbone)
    content = (folder / "adapter.safetensors").read_bytes()
    for damage in (content[:50], b"", content[: len(content) // 2]):
        (folder / "adapter.safetensors").write_bytes(damage)
        with pytest.raises(AdapterError, match="not a saved adapter, or a damaged one"):
            load_adapter(folder)
    with pytest.raises(AdapterError, match="not a saved adapter"):
        load_adapter(tmp_path / "qwen")
