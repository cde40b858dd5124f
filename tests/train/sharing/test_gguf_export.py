"""From a run to a GGUF file that llama.cpp runs as transformers does: tokens, probabilities and greedy text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import prose
from tiny import logits, make

pytest.importorskip("xllamacpp")

from test_sharing import CPU, SIGMOID, make_run

from benchmarks.llama_cpp import loaded
from models.backbone import load_tokenizer, save_backbone
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from pipeline.common.schemas import SHARD_SCHEMA
from train.data.options import Tokens
from train.data.tokens import encode, train_tokenizer
from train.runs.load import load_run
from train.runs.options import Export
from train.sharing.export import export_run

SENTENCES = [line for number in range(25) for language in ("en", "fr") for line in prose(language, number)]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with a tokenizer trained here."""
    folder = tmp_path_factory.mktemp("gguf")
    rows = [dict.fromkeys(SHARD_SCHEMA.names) | {"text": text, "url": ""} for text in SENTENCES]
    write_arrow(folder / "shard.arrow", SHARD_SCHEMA, rows)
    train_tokenizer(Tokens(vocabulary=320), [str(folder / "shard.arrow")], None, str(folder / "tokenizer"))
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    model = make("Llama", tie_word_embeddings=True, max_position_embeddings=256, **sizes)
    for weight in model.parameters():
        weight.data *= (
            0.5 if weight.dim() > 1 else 1
        )  # or it would be surer of itself than trained ones, and err more
    save_backbone(model, load_tokenizer(str(folder / "tokenizer")), folder / "backbone")
    return folder / "backbone"


@pytest.mark.slow
@pytest.mark.parametrize("options", [SIGMOID, {"method": "adapter"}], ids=["gated", "folded"])
def test_llama_cpp_reads_200_sentences_as_transformers_does(speaking, tmp_path, options):
    run = make_run(tmp_path / "run", speaking, **options)
    kinds = ["f32", "q8_0", "q4_k_m"]
    export_run(Export(gguf=kinds), run, None, [], str(tmp_path / "out"))
    names = [f"backbone-run-{kind.upper()}.gguf" for kind in kinds]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.gguf")) == sorted(names)
    assert (tmp_path / "out/Modelfile").read_text() == f"FROM ./{names[0]}\nTEMPLATE {{{{ .Prompt }}}}\n"
    card = (tmp_path / "out/README.md").read_text()
    assert (
        f"`llama-server -m out/{names[1]}`" in card and "`ollama create backbone-run -f out/Modelfile &&" in card
    )

    model, tokenizer = load_run(str(speaking), run, CPU).float(), load_tokenizer(str(speaking))
    assert len(SENTENCES) == 200
    with loaded(tmp_path / "out" / names[0]) as served:
        for sentence, (tokens, _) in zip(SENTENCES, encode(tokenizer, SENTENCES), strict=True):
            assert served.tokenize(sentence) == tokens
            expected = logits(model, torch.tensor([tokens]))[0, -1].log_softmax(-1)
            assert (served.next_log_probs(tokens) - expected).abs().max() < 1e-5
        how = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        prompt = torch.tensor([tokens])
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), suppress_tokens=[0], **how)
        assert served.greedy(tokens, 30) == written[0, len(tokens) :].tolist()
    for name in names[1:]:
        with loaded(tmp_path / "out" / name) as served:
            error = (served.next_log_probs(tokens) - expected).square().mean().sqrt()
            assert 0 < error < 0.5 * expected.std()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "elu"}, "--gguf: no server has the elu gate; with `gate: sigmoid` and `gate_bias: false`"),
        ({"gate": "sigmoid"}, "--gguf: no server has the gate with a bias; with `gate: sigmoid`"),
    ],
)
def test_a_run_that_llama_cpp_cannot_have_is_refused_whole(speaking, tmp_path, options, message):
    run = make_run(tmp_path / "run", speaking, **options)
    with pytest.raises(StageError) as error:
        export_run(Export(gguf=["q8_0"]), run, None, [], str(tmp_path / "out"))
    assert message in str(error.value) and not (tmp_path / "out").exists()


def test_a_threshold_of_gates_is_not_lost_in_a_gguf_file(speaking, tmp_path):
    run = make_run(tmp_path / "run", speaking, **SIGMOID)
    with pytest.raises(
        StageError, match=r"llama\.cpp has no threshold for gates; take out gate_threshold, or gguf"
    ):
        export_run(Export(gguf=["f32"]), run, None, [], str(tmp_path / "out"), gate_threshold=0.7)
    export_run(Export(), run, None, [], str(tmp_path / "out"), gate_threshold=0.7)
    assert "its own code, for the threshold of its gates" in (tmp_path / "out/README.md").read_text()


def test_a_backbone_without_a_rope_has_no_gguf_file_and_says_so(tmp_path):
    from models.gguf_file import write_gguf
    from models.native import native_for_gguf

    with pytest.raises(ValueError, match="nothing known here for GPT2LMHeadModel"):
        write_gguf(native_for_gguf(make("GPT2")).model, None, tmp_path / "x.gguf", "f32")
