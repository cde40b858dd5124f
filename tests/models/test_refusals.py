"""What is no backbone is refused in one line that says what it is and what to do; what is one goes on working."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_export import addition
from tiny import COMMON, logits, make, rounded, tokens
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from models.adapter import attach
from models.backbone import load_backbone, load_tokenizer, save_backbone
from models.export import export
from models.extend import ExtendError, decoder_layers, extend

UP = "model.layers.0.mlp.up_proj.weight"
EVIL = "x\n\x1b[2Jy" * 100
PARTS = {key: value for key, value in COMMON.items() if "token_id" not in key}
IMAGES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def words(count: int = 50, without: tuple[int, ...] = (), end: str | None = "<end>") -> Any:
    """A tokenizer of whole words, whose id is their number."""
    entries = {"<end>": 0} | {f"w{i}": i for i in range(1, count) if i not in without}
    model = Tokenizer(models.WordLevel(entries, unk_token="w1"))  # noqa: S106
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token=end)


def write(folder: Path, model: Any = None, tokenizer: Any = None) -> Path:
    save_backbone(model or make(), tokenizer or words(), folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def rewrite(folder: Path, weights: dict[str, Tensor]) -> None:
    save_file(
        {name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        load_backbone(str(folder))
    assert str(error.value).isprintable()
    return str(error.value)


# Quantised weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        *(
            ({"quant_method": name, "bits": 4}, f"({name})")
            for name in ("gptq", "awq", "fbgemm_fp8", "compressed-tensors", "hqq", "torchao", "bitnet", "quanto")
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "(bitsandbytes); unpack them"),
        ({"load_in_4bit": True}, "(bitsandbytes); unpack them"),
        ({"quant_method": "fp8", "load_in_8bit": True}, "(fp8)"),
        ({"quant_method": "mxfp4"}, "Mxfp4Config(dequantize=True)"),
        ({"bits": 4}, "(of an unknown method)"),
        ({"quant_method": EVIL}, "take the model that they were made of"),
        (["gptq"], "quantised weights"),
        ("gptq", "(gptq)"),
        (True, "quantised weights"),
    ],
)
def test_quantised_weights_are_refused_by_what_the_config_says(entry: Any, named: str, folder: Path) -> None:
    sound = json.loads((folder / "config.json").read_text())
    places = (
        {"quantization_config": entry},
        {"compression_config": entry},
        {"text_config": {"quantization_config": entry}},
    )
    for place in places:
        (folder / "config.json").write_text(json.dumps(sound | place))
        assert (message := refused(folder)).startswith("config.json: quantised weights ")
        assert named in message
    (folder / "config.json").write_text(json.dumps(sound | {"quantization_config": None}))
    load_backbone(str(folder))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("end", ["weight", "qweight", "weight_packed"])
def test_packed_weights_are_known_without_a_word_in_the_config(dtype: torch.dtype, end: str, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[UP.replace("weight", end)] = weights.pop(UP).to(dtype)
    rewrite(folder, weights)
    assert "quantised weights, of which config.json says nothing (model.layers.0.mlp.up_proj." in refused(folder)


# Folders of something else --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter.json", "an adapter saved by this toolkit; give its backbone, and its run as `base`"),
        ("model_index.json", "diffusers"),
        ("modules.json", "sentence-transformers"),
        ("quantize_config.json", "quantised weights"),
        ("quant_config.json", "quantised weights"),
        ("hf_quant_config.json", "quantised weights"),
    ],
)
def test_a_folder_for_something_else_is_refused_whatever_else_is_in_it(name: str, said: str, folder: Path) -> None:
    (folder / name).write_text("{}")
    assert refused(folder).startswith(f"{name} is there: ")
    assert said in refused(folder)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_tokenizer(str(folder))
    for path in folder.iterdir():
        if path.name != name:
            path.unlink()
    assert said in refused(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "weights as pickles, which can run code; if you trust them, convert them"),
        ("pytorch_model-00001-of-00002.bin", "weights as pickles"),
        ("model.pth", "weights as pickles"),
        ("consolidated.00.pth", "weights in their maker's own format"),
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
        ("weights.npz", "MLX"),
        ("model.onnx", "converted for one program"),
        ("model.Q4_K_M.gguf", "give that file (FOLDER/NAME.gguf) and not its folder"),
        ("model-00001-of-00002.safetensors", "under another name than model.safetensors"),
        ("adapter_model.safetensors", "an adapter of peft without its adapter_config.json"),
        ("optimizer.pt", "a training's state without its model"),
        ("step-000050.safetensors", "checkpoints of this toolkit's training"),
        ("global_step5", "zero_to_fp32.py"),
        ("config.json", "a config without weights; download model.safetensors, too"),
    ],
)
def test_weights_that_are_not_read_are_named_with_what_to_do(name: str, said: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).touch()
    assert refused(folder).startswith(f"{name} is there: ")
    assert said in refused(folder)
    if name != "config.json":
        (folder / "config.json").unlink()
        assert said in refused(folder)


def test_a_checkpoint_with_its_model_is_a_model_and_pointers_and_missing_shards_are_named(folder: Path) -> None:
    (folder / "optimizer.pt").touch()
    load_backbone(str(folder))
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    assert "model.safetensors is a pointer of Git LFS" in refused(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    assert "model.safetensors.index.json names x.safetensors, which is not there" in refused(folder)
    for name in ("config.json", "optimizer.pt", "model.safetensors.index.json", "generation_config.json"):
        (folder / name).unlink()
    assert "a tokenizer alone" in refused(folder)
    (folder / "run.json").touch()
    assert refused(folder) == "run.json is there: the folder of a run; give its backbone, and the run as `base`"


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (
            {"peft_type": "IA3", "base_model_name_or_path": "them/base"},
            "('IA3') for 'them/base', no model; merge it: ",
        ),
        ({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": EVIL}, "give its base model itself"),
        ({"peft_type": [EVIL], "base_model_name_or_path": {"a": EVIL}}, "merge it: "),
        ([], "merge it: "),
    ],
)
def test_an_adapter_of_peft_is_refused_beside_a_model_and_alone(about: Any, said: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(about))
    assert said in refused(folder)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    assert said in refused(folder)
    (folder / "adapter_config.json").write_text("[" * 10**5)
    assert "an adapter of peft ('None'), no model; merge it: " in refused(folder)


def test_an_adapter_merged_as_the_message_says_is_a_backbone(tmp_path: Path) -> None:
    import peft

    base = write(tmp_path / "base")
    adapted: Any = peft.get_peft_model(load_backbone(str(base)), peft.LoraConfig(init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "lora")
    cure = re.search(r"peft's (\S+\.save_pretrained\(NEW\))", refused(tmp_path / "lora"))
    assert cure
    names = {"FOLDER": tmp_path / "lora", "NEW": tmp_path / "new"}
    exec(cure[1], vars(peft) | names)  # noqa: S102
    read = load_backbone(str(tmp_path / "new"))
    assert torch.equal(logits(read, tokens()), logits(adapted.merge_and_unload(), tokens()))


# Models that are no decoders of text ----------------------------------------------------------------


def gemma3(folder: Path) -> Any:
    """A model of images and text, whose two towers have as many layers."""
    text = PARTS | {"head_dim": 8, "model_type": "gemma3_text"}
    images = IMAGES | {"image_size": 8, "patch_size": 4}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=images, image_token_index=47, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    write(folder, model)
    return load(transformers.Gemma3ForConditionalGeneration, folder)


def load(kind: Any, folder: Path) -> Any:
    return kind.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()


def test_a_model_of_images_is_refused_and_its_decoder_saved_as_the_message_says_is_a_backbone(
    tmp_path: Path,
) -> None:
    whole = gemma3(tmp_path / "whole")
    message = refused(tmp_path / "whole")
    assert message.startswith(
        "config.json: gemma3 is a model of images or sounds beside text, around a gemma3_text; save its text"
    )
    cure = message.removesuffix(", and give NEW").partition("alone: ")[2]
    names = {name: getattr(transformers, name) for name in set(re.findall(r"Auto\w+", cure))}
    exec(cure, names | {"FOLDER": tmp_path / "whole", "NEW": tmp_path / "text"})  # noqa: S102
    text = load_backbone(str(tmp_path / "text"))
    assert torch.equal(logits(text, tokens()), logits(whole, tokens()))
    assert load_tokenizer(str(tmp_path / "text"))("w3")["input_ids"] == [3]
    # In memory, where no door is: the layers of the text.
    assert all("Gemma3" in type(layer).__name__ for layer in decoder_layers(whole))


@pytest.mark.parametrize("name, taken", [("Gemma2", "eager"), ("Llama", "sdpa")])
def test_sdpa_is_taken_where_transformers_has_it(name: str, taken: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path), attention="sdpa").config._attn_implementation == taken


def test_a_text_decoder_that_transformers_takes_out_itself_is_a_backbone(tmp_path: Path) -> None:
    text = PARTS | {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
    text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    images = {"hidden_size": 16, "depth": 2, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16}
    torch.manual_seed(0)
    config = transformers.Qwen3_5Config(text_config=text, vision_config=images)
    write(tmp_path / "whole", transformers.Qwen3_5ForConditionalGeneration(config).eval())
    read, whole = (
        load_backbone(str(tmp_path / "whole")),
        load(transformers.AutoModelForMultimodalLM, tmp_path / "whole"),
    )
    assert torch.equal(logits(read, tokens()), logits(whole, tokens()))
    save_backbone(read, words(), tmp_path / "copy")
    assert torch.equal(logits(load_backbone(str(tmp_path / "copy")), tokens()), logits(whole, tokens()))


def test_layers_that_text_passes_over_are_refused(tmp_path: Path) -> None:
    images = {"hidden_size": 16, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2}
    images |= {"image_size": 28, "patch_size": 14, "vision_output_dim": 32, "intermediate_layers_indices": [0]}
    images |= {"max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    text = PARTS | {"pad_token_id": 0, "cross_attention_layers": [1]}
    config = transformers.MllamaConfig(text_config=text, vision_config=images)
    write(tmp_path / "whole", transformers.MllamaForConditionalGeneration(config).eval())
    assert refused(tmp_path / "whole").startswith("config.json: 1 of its layers are for images or sounds alone")


BESIDE = "is a model of images or sounds beside text"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("t5", "t5 is an encoder-decoder"),
        ("whisper", "whisper is an encoder-decoder"),
        ("distilbert", "distilbert is no decoder of text, but an encoder or"),
        ("vit", "vit is no decoder of text"),
        ("qwen2_vl", f"qwen2_vl {BESIDE}, around a qwen2_vl_text; transformers has no decoder"),
        ("voxtral", f"voxtral {BESIDE}, around a llama; save its text decoder alone"),
        ("them", "the model has code of its own, which is not run"),
    ],
)
def test_other_kinds_of_models_are_named(kind: str, said: str, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": {"AutoConfig": "code.C"}}))
    assert refused(folder).startswith(f"config.json: {said}")


@pytest.mark.parametrize("decoder", [False, True])
def test_an_encoder_is_known_by_what_a_token_sees(decoder: bool, tmp_path: Path) -> None:
    sizes = IMAGES | {"vocab_size": 50, "pad_token_id": 0}
    bert = transformers.BertLMHeadModel(transformers.BertConfig(**sizes, is_decoder=decoder))
    gemma = make("Gemma3")
    gemma.config.use_bidirectional_attention = not decoder
    for name, model in (("bert", bert), ("gemma", gemma)):
        folder = write(tmp_path / name, model)
        if decoder:
            load_backbone(str(folder))
        else:
            assert refused(folder).startswith("config.json: each token sees those behind it, as in an encoder")


def test_an_export_is_loaded_but_not_extended(tmp_path: Path) -> None:
    one, model = addition("Llama", "neutral"), rounded(make())
    attach(model, [one])
    export(model, words(), tmp_path / "export")
    read = load_backbone(str(tmp_path / "export"))
    assert torch.equal(logits(read, tokens()), logits(model, tokens()))
    with pytest.raises(ExtendError, match=r"cannot extend an export, .* take its backbone, and its run as `base`"):
        extend(read, "neutral", fraction=0.5)


# Weights and config that do not belong together -----------------------------------------------------


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    for wrong in (float("nan"), float("inf"), 1e300):  # the last is none in bf16
        rewrite(folder, weights | {UP: weights[UP].double() * wrong})
        assert f"1 weights hold NaN or infinity, such as {UP}; download the model again" in refused(folder)
    for dtype in (torch.float16, torch.float32, torch.float64):
        rewrite(folder, {name: weight.to(dtype) for name, weight in weights.items()})
        read = load_backbone(str(folder)).state_dict()
        assert all(torch.equal(read[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX"])
def test_a_head_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", make(name))
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, {key: w for key, w in weights.items() if not key.startswith(("lm_head", "embed_out"))})
    assert "the weights have no head (" in refused(folder)
    change(folder / "config.json", tie_word_embeddings=True)
    read = load_backbone(str(folder))
    assert read.get_output_embeddings().weight is read.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("name", "key"), [("Llama", "num_hidden_layers"), ("GPT2", "n_layer"), ("GPTNeoX", "num_hidden_layers")]
)
def test_layers_that_a_config_leaves_out_are_counted(name: str, key: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", make(name))
    change(folder / "config.json", **{key: 1})
    assert refused(folder) == "config.json describes 1 layers, and the weights have 2; mend it"
    weights = load_file(folder / "model.safetensors")
    rewrite(folder, {key: weight for key, weight in weights.items() if ".1." not in key})
    assert len(decoder_layers(load_backbone(str(folder)))) == 1


def test_weights_without_a_place_are_refused_but_masks_and_further_heads_are_not(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    layer = {
        name.replace("layers.0", "layers.2"): weight for name, weight in weights.items() if "layers.0" in name
    }
    harmless = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8),
        "model.layers.0.self_attn.mask": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "score.weight": torch.ones(2, 16),
        "model.layers.2.eh_proj.weight": torch.ones(16, 32),  # of a layer that guesses the token after the next
    }
    rewrite(folder, weights | layer | harmless)
    read = load_backbone(str(folder)).state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    # Without its norm, a model of this type would be another.
    rewrite(folder, weights | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
    assert "describes a model without model.layers.0.self_attn.q_norm.weight, which the weights have" in refused(
        folder
    )


def test_two_weights_that_a_config_calls_one_stay_two(folder: Path) -> None:
    before = logits(load_backbone(str(folder)), tokens())
    change(folder / "config.json", tie_word_embeddings=True)
    save_backbone(load_backbone(str(folder)), words(), folder.parent / "copy")
    assert torch.equal(logits(load_backbone(str(folder.parent / "copy")), tokens()), before)


# Tokenizers -----------------------------------------------------------------------------------------


def with_token(token: str, special: bool = False, **names: Any) -> Any:
    tokenizer = words()
    tokenizer.add_tokens([token], special_tokens=special)
    if names:
        tokenizer.add_special_tokens(names)
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (words(500), "its tokenizer has ids up to 499 ('w499'), and the model 50 embeddings: put the model's own"),
        (words(51, without=tuple(range(20, 50))), "its tokenizer has ids up to 50 ('w50')"),
        (with_token("<extra>"), "ids up to 50 ('<extra>')"),
        (with_token("<bos>", bos_token="<bos>"), "ids up to 50 ('<bos>')"),  # noqa: S106
        (with_token("<eos>", eos_token="<eos>"), "ids up to 50 ('<eos>')"),  # noqa: S106
        (words(end=None), "its tokenizer has neither an end nor a beginning token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer: Any, said: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_tokenizer(str(folder))


def test_a_special_token_behind_the_embeddings_is_none_that_a_text_makes(tmp_path: Path) -> None:
    """Gemma 3's text models have one, of an image."""
    from models.tokenizers import vocabulary_size
    from train.data.tokens import encode

    read = load_tokenizer(str(write(tmp_path / "model", tokenizer=with_token("<image>", special=True))))
    assert max(read.get_vocab().values()) == 50
    assert vocabulary_size(read) == 50
    assert max(encode(read, ["w3 <image> w4<image>"])[0][0]) < 50


def test_holes_in_a_vocabulary_stay_unless_they_shift_its_tokens(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tokenizer=words(45, without=(7, 9)))
    save_backbone(load_backbone(str(folder)), load_tokenizer(str(folder)), tmp_path / "copy")
    read = load_tokenizer(str(tmp_path / "copy"))
    assert read("w6 w8 w10 w44")["input_ids"] == [6, 8, 10, 44]
    about = json.loads((folder / "tokenizer.json").read_text())
    about["added_tokens"].append(about["added_tokens"][0] | {"id": 47, "content": "<x>"})
    (folder / "tokenizer.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="its tokenizer gives several tokens the same id; close the holes"):
        load_tokenizer(str(folder))
    about["model"]["vocab"] |= {"w7": 7, "w9": 9}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"'<x>' is 47 in tokenizer\.json and 45 when loaded"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma"])
def test_no_tokenizer_is_made_out_of_nothing(kind: str, folder: Path) -> None:
    """transformers makes some of one token."""
    for path in folder.glob("token*"):
        path.unlink()
    change(folder / "config.json", model_type=kind)
    with pytest.raises(
        ValueError, match=r"there is no tokenizer \(tokenizer.json\) in .*; put the model's own beside"
    ):
        load_tokenizer(str(folder))
    shutil.rmtree(folder)
