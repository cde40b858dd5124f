"""Folders that claim to be models: nothing of them is run or followed, and they describe what they hold."""

import ast
import base64
import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_export import addition
from tiny import ARCHITECTURES, logits, make, rounded, tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models.adapter import attach
from models.backbone import load_backbone, load_tokenizer, save_backbone
from models.export import export
from models.extend import decoder_layers
from models.modeling_neutral import check

RAN = "from pathlib import Path\nPath({path!r}).touch()\nclass C: ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model."""
    words = Tokenizer(models.WordLevel({"<end>": 0} | {f"w{i}": i for i in range(1, 50)}, unk_token="<end>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")  # noqa: S106
    save_backbone(make(), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refused(folder: Path) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        load_backbone(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_toolkit_trusts_no_code_of_models() -> None:
    given = []
    for path in (path for wing in ("pipeline", "train", "models") for path in (ROOT / wing).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                given.append(node.value)
            elif isinstance(node, ast.Dict):
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                given += [x for key, x in zip(keys, node.values, strict=True) if key == "trust_remote_code"]
    assert len(given) > 3
    assert all(isinstance(value, ast.Constant) and value.value is False for value in given)


@pytest.mark.parametrize("name", [*ARCHITECTURES])
def test_an_export_is_loaded_without_its_code(name: str, tmp_path: Path) -> None:
    one = addition(name, "neutral")
    model = rounded(make(name))
    attach(model, [one])
    export(model, make_words(), tmp_path)
    (tmp_path / "modeling_neutral.py").write_text("raise SystemExit")
    loaded = load_backbone(str(tmp_path))
    assert torch.equal(logits(loaded, tokens()), logits(model, tokens()))
    assert len(decoder_layers(loaded)) == 2


def make_words() -> Any:
    class Words:
        def save_pretrained(self, folder: Path) -> None: ...

    return Words()


# Code, and what leads to it -------------------------------------------------------------------------


def test_names_of_code_are_neither_followed_nor_handed_on(folder: Path, tmp_path: Path) -> None:
    (folder / "code.py").write_text(RAN.format(path=str(tmp_path / "ran")))
    here = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "code.C")
    elsewhere = {"AutoTokenizer": ["them/evil--code.C", None]}
    impl = {"text-generation": {"impl": "code.C", "pt": ["AutoModelForCausalLM"]}}
    for about in (here, elsewhere):
        change(folder / "config.json", auto_map=about, custom_pipelines=impl, _attn_implementation="them/kernel")
        change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.C", "code.C"]} | about)
        copy = tmp_path / "copy"
        save_backbone(load_backbone(str(folder)), load_tokenizer(str(folder)), copy)
        text = "".join(path.read_text() for path in copy.glob("*.json"))
        assert "code.C" not in text and "auto_map" not in text
    assert not (tmp_path / "ran").exists()


def test_nothing_but_the_model_is_taken_from_its_folder(folder: Path, tmp_path: Path) -> None:
    """Neither shards that another tool wrote, nor a pickle."""
    before = load_backbone(str(folder))
    (folder / "adapter_model.bin").write_bytes(b"x")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    shutil.copyfile(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")
    change(folder / "config.json", transformers_weights="pytorch_model.bin")
    loaded = load_backbone(str(folder))
    assert type(loaded) is type(before)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), loaded.parameters(), strict=True))
    (folder / "model.safetensors").unlink()
    assert "pytorch_model.bin is there: weights as pickles" in refused(folder)


def test_shards_lie_in_the_folder(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(halves.values()):
        save_file({name: weights[name] for name in weights if halves[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": halves}))
    read = load_backbone(str(folder)).state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    for name in ("../model.safetensors", "/etc/model.safetensors", ".safetensors", "a/b.safetensors", "x.bin", 3):
        index.write_text(json.dumps({"metadata": {}, "weight_map": halves | {"lm_head.weight": name}}))
        assert "model.safetensors.index.json cannot be read" in refused(folder)


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    assert "chat_template.jinja is a link that leads out of" in refused(folder)
    with pytest.raises(ValueError, match=r"chat_template\.jinja is a link"):
        load_tokenizer(str(folder))
    (folder / "chat_template.jinja").unlink()
    # The hub's cache is a folder of links.
    cache = tmp_path / "models--some--tiny"
    (cache / "snapshots").mkdir(parents=True)
    folder.rename(cache / "blobs")
    (cache / "snapshots" / "abc").mkdir()
    for blob in (cache / "blobs").iterdir():
        (cache / "snapshots" / "abc" / blob.name).symlink_to(blob)
    load_backbone(str(cache / "snapshots" / "abc"))
    load_tokenizer(str(cache / "snapshots" / "abc"))


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"tokenizer_class": "BertTokenizer", "vocab": "SECRET"}, "vocab in"),
        ({"tokenizer_class": "GemmaTokenizer", "vocab_file": "SECRET"}, "vocab_file in"),
        ({"tokenizer_class": "GPT2Tokenizer", "vocab": "SECRET", "merges": "SECRET"}, "in"),
        ({"tokenizer_class": "BertTokenizer", "init_inputs": ["SECRET"]}, "init_inputs in"),
        ({"gguf_file": "../secret"}, "gguf_file in"),
        ({"fast_tokenizer_files": ["../private/tokenizer.4.0.0.json"]}, "fast_tokenizer_files in"),
    ],
)
def test_a_tokenizer_opens_no_file_elsewhere(
    file: str, entries: dict[str, Any], what: str, folder: Path, tmp_path: Path
) -> None:
    """The words of a private file would be the vocabulary of our copy."""
    (tmp_path / "secret").write_text("<end>\nsecret\n")
    told = json.loads(json.dumps(entries).replace("SECRET", str(tmp_path / "secret")))
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class=entries.get("tokenizer_class", "TokenizersBackend"))
    (folder / file).write_text(json.dumps(told))
    for alone in (False, True):  # beside a model or not
        if alone:
            (folder / "config.json").unlink()
        with pytest.raises(ValueError, match=rf"{what} .*{file} leads to another file"):
            load_tokenizer(str(folder))


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("name", ["AutoModelForMaskedLM", "AutoProcessorFast", "RagTokenizer", "pipeline"])
def test_the_class_of_a_tokenizer_is_one(
    file: str, name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other class of transformers would ask on the terminal whether to run the folder's code."""
    monkeypatch.setattr("builtins.input", lambda asked: "y")
    (folder / "code.py").write_text(RAN.format(path=str(tmp_path / "ran")))
    maps = dict.fromkeys(("AutoModelForMaskedLM", "AutoProcessor"), "code.C")
    change(folder / "tokenizer_config.json", tokenizer_class=None)
    change(folder / "config.json", auto_map=maps)
    change(folder / file, tokenizer_class=name)
    with pytest.raises(ValueError, match=f"{name} is no class of a tokenizer"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["PreTrainedTokenizer", "NoSuchTokenizer", None])
def test_usual_classes_of_tokenizers_are_read(name: str | None, folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class=name, vocab_file="/nowhere/vocab.txt", init_inputs=[])
    assert load_tokenizer(str(folder))("w1 w2")["input_ids"] == [1, 2]


# Sizes and damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"hidden_size": 10**9, "num_attention_heads": 1, "num_key_value_heads": 1}, "and there are 5,520"),
        ({"vocab_size": 10**9}, "and there are 5,520"),
        ({"num_hidden_layers": 3}, "config.json describes 7,"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, more than any model has"),
        ({"num_hidden_layers": 1}, "config.json describes 1 layers, and the weights have 2; mend it"),
        ({"pretraining_tp": 10**9}, "pretraining_tp is 1000000000, more than any model has"),
        ({"model_type": "xlstm", "num_blocks": 10**9}, "can be built (more than 1,000 modules and weights)"),
        ({"vocab_size_per_layer_input": 2**18, "shared_expert_intermediate_size": 5632, "num_experts": 2**14}, ""),
        ({"hidden_size": 8}, "the weights do not fit config.json"),
        ({"head_dim": 10**18}, "config.json does not describe a decoder that can be built"),
        ({"partial_rotary_factor": 1e9, "rope_parameters": {"rope_type": "default", "rope_theta": 1.0}}, ""),
        ({"hidden_act": "eval"}, "config.json does not describe a decoder that can be built (KeyError: 'eval')"),
        ({"to_dict": 3}, "config.json cannot be read (TypeError: "),
        (
            {"model_type": "none"},
            "config.json cannot be read (The checkpoint you are trying to load has model type",
        ),
        ({"model_type": ["llama"]}, "its model_type is no name"),
        ({"model_type": "bert"}, "config.json "),
        ({"neutral_residues": {"layers": "model.layers"}}, "config.json does not describe a decoder"),
    ],
)
def test_what_a_config_describes_is_what_the_weights_hold(
    entries: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.foreign.MOST_PARTS", 1000)
    change(folder / "config.json", **entries)
    if message:
        assert message in refused(folder)
    else:
        load_backbone(str(folder))


def test_a_mask_that_no_weight_accounts_for_is_refused(tmp_path: Path) -> None:
    make("GPTNeoX").save_pretrained(tmp_path)
    change(
        tmp_path / "config.json",
        head_dim=8,
        rope_parameters={"rope_type": "default", "partial_rotary_factor": 1e9, "rope_theta": 1.0},
    )
    assert "numbers beside the weights, more than any model has" in refused(tmp_path)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 10**5, b'{"model_type": "llama"'])
def test_damaged_files_are_named(body: bytes, folder: Path) -> None:
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).write_bytes(body)
        what = "damaged weights" if name.endswith("tensors") else f"{name} cannot be read"
        assert what in refused(folder)
        (folder / name).write_bytes(sound[name])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(body)
        with pytest.raises((ValueError, OSError)) as error:
            load_tokenizer(str(folder))
        assert "\n" not in str(error.value)
        (folder / name).write_bytes(sound[name])
    load_tokenizer(str(folder))
    load_backbone(str(folder))


def test_a_panic_of_a_native_reader_is_an_error(folder: Path) -> None:
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    change(folder / "tokenizer.json", normalizer=charsmap)
    with pytest.raises(ValueError, match=r"its tokenizer cannot be read .*PanicException"):
        load_tokenizer(str(folder))


def _replace(one: str, many: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": one}, "content": many}


CHAIN = [_replace(one, other * 30) for one, other in zip("abcdef", "bcdefg", strict=True)]
USUAL = [{"type": "Prepend", "prepend": "_"}, _replace(" ", "_"), _replace("\n", "<newline>"), {"type": "NFKC"}]
TABLE = base64.b64encode((4).to_bytes(4, "little") + b"tree" + b"ab\0" + b"x" * 101 + b"\0").decode()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": CHAIN}}, "729,000,000 characters"),
        ({"decoder": {"type": "Sequence", "decoders": CHAIN}}, "729,000,000 characters"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 1000}}, "1,000 characters"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": TABLE}}, "101 characters"),
        ({"normalizer": {"type": "Sequence", "normalizers": USUAL}}, ""),
    ],
)
def test_a_tokenizer_makes_few_characters_of_one(rules: dict[str, Any], said: str, folder: Path) -> None:
    change(folder / "tokenizer.json", **rules)
    for alone in (False, True):  # beside a model or not
        if alone:
            (folder / "config.json").unlink()
        with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
            load_tokenizer(str(folder))


def test_a_large_file_of_text_is_not_read(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(ValueError, match=r"tokenizer\.json has more than 256 MiB"):
        load_tokenizer(str(folder))


BLOCK = {"width": 4, "gate": "elu", "bias": True, "norm": None}
BLOCKS = {"layers": "model.layers", "activation": "act_fn", "blocks": [BLOCK]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": "__class__"}, {"layers": "model._modules"}, {"layers": "model..layers"}, {"layers": ["model"]},
        {"activation": "forward"}, {"activation": "__init__"}, {"activation": None}, {"blocks": BLOCK},
        {"blocks": [BLOCK] * 101}, {"blocks": [BLOCK | {"width": 0}]}, {"blocks": [BLOCK | {"width": True}]},
        {"blocks": [BLOCK | {"width": 4.0}]}, {"blocks": [BLOCK | {"gate": "exec"}]},
        {"blocks": [BLOCK | {"bias": 1}]}, {"blocks": [BLOCK | {"norm": "forward"}]},
        *({"blocks": [BLOCK | {"threshold": x}]} for x in (-0.1, math.nan, math.inf, True, None, "0.1")),
    ],
)  # fmt: skip
def test_the_blocks_of_a_config_name_only_what_blocks_are_made_of(wrong: dict[str, Any]) -> None:
    check(BLOCKS)
    check(BLOCKS | {"blocks": [BLOCK | {"threshold": 0.1}]})
    with pytest.raises(ValueError, match="does not describe blocks"):
        check(BLOCKS | wrong)
