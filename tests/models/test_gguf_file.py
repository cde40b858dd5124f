"""GGUF files: llama.cpp computes of them what transformers computes of the model."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import logits
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from benchmarks.llama_cpp import loaded
from models.backbone import convert_gguf, load_backbone, load_tokenizer
from models.extend import extend
from models.gguf_file import KINDS, write_gguf
from models.native import native

ROWS = 288  # of the embeddings; the tokenizer has fewer entries
BASE: dict[str, Any] = {
    "vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
SCALED = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 6}
FIRST_FULL = {"layer_types": ["full_attention", "sliding_attention"]}
BOTH = {"full_attention": LINEAR | {"rope_theta": 1e6}, "sliding_attention": PLAIN}
GLM = {
    "moe_intermediate_size": 32, "n_shared_experts": 3, "n_routed_experts": 3, "num_experts_per_tok": 2,
    "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "head_dim": 16, "norm_topk_prob": False,
    "routed_scaling_factor": 1.0, "rope_parameters": PLAIN | {"partial_rotary_factor": 1.0},
}  # fmt: skip
GLM_SCALED = GLM | {"rope_parameters": SCALED | {"partial_rotary_factor": 1.0}}
QWEN = {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1}
GRANITE = {
    "intermediate_size": 32, "shared_intermediate_size": 96, "num_local_experts": 2, "num_experts_per_tok": 2,
    "attention_multiplier": 0.25,
}  # fmt: skip
# The class without ForCausalLM, behind it what is special, and the config.
CASES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama, biases, tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "Llama, wide heads": {"head_dim": 32},
    "Llama, scaled": {"rope_parameters": SCALED},
    "Llama, linear": {"rope_parameters": LINEAR},
    "Mistral": {"sliding_window": None, "head_dim": 16},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Gemma": {"head_dim": 32},
    "Gemma2": GEMMA,
    "Gemma3": GEMMA,
    "Gemma3, other layers, linear": GEMMA | FIRST_FULL | {"rope_parameters": BOTH},
    "Olmo2": {"intermediate_size": 103},
    "Qwen2Moe": QWEN | {"num_experts": 1, "num_experts_per_tok": 1, "norm_topk_prob": True},
    "Qwen2Moe, 2 of 4": QWEN | {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False},
    "Glm4Moe": GLM | {"use_qk_norm": False, "attention_bias": True},
    "Glm4Moe, norms": GLM | {"use_qk_norm": True, "attention_bias": False},
    "Glm4Moe, normalised": GLM | {"norm_topk_prob": True, "routed_scaling_factor": 2.0},
    "Glm4Moe, scaled": GLM_SCALED | {"use_qk_norm": False, "attention_bias": True},
    "Glm4Moe, scaled, norms": GLM_SCALED | {"use_qk_norm": True, "attention_bias": False},
    "GraniteMoeShared, scaled": GRANITE | {"attention_bias": True, "rope_parameters": SCALED},
    "GraniteMoeShared, multipliers": GRANITE
    | {"num_local_experts": 3, "logits_scaling": 3.0, "residual_multiplier": 0.6, "embedding_multiplier": 2.0},
}
PROMPTS_BT = torch.randint(1, ROWS, (2, 20), generator=torch.Generator().manual_seed(0))


class TableOfGelu(nn.Module):
    """GELU as llama.cpp has it: a table of f16 numbers by f16 numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def make(case: str, **changes: Any) -> Any:
    """A model with weights at random, all of them: norms and biases too."""
    name = case.partition(",")[0]
    config_class = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    config = config_class(**BASE | CASES[case] | {"initializer_range": 0.1} | changes)
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for key, buffer in model.named_buffers():
        if "correction" in key:  # two experts are always chosen, the third never
            buffer.copy_(torch.tensor([2.0, 2.0, 0.0]))
    if name.startswith("Gemma"):
        for layer in model.model.layers:
            layer.mlp.act_fn = TableOfGelu()
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token for each byte, and one for the end of a text."""
    letters = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "en"]
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, [("e", "n")]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **ends)


def log_probs(model: Any) -> Tensor:
    return logits(model, PROMPTS_BT).log_softmax(-1)


def llama_cpp_log_probs(path: Path) -> Tensor:
    with loaded(path) as loaded_model:
        return torch.stack([loaded_model.log_probs(row) for row in PROMPTS_BT.tolist()])


def rms(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


@pytest.mark.parametrize("case", list(CASES))
def test_llama_cpp_computes_what_transformers_does(case: str, tokenizer: Any, tmp_path: Path) -> None:
    model, path = make(case), tmp_path / "model.gguf"
    write_gguf(model, tokenizer, path, "f32")
    expected = log_probs(model)
    how = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    prompt = PROMPTS_BT[:1]
    continued = model.generate(prompt, attention_mask=torch.ones_like(prompt), suppress_tokens=[0], **how)
    with loaded(path) as loaded_model:
        found = torch.stack([loaded_model.log_probs(row) for row in PROMPTS_BT.tolist()])
        assert loaded_model.greedy(prompt[0].tolist(), 20) == continued[0, 20:].tolist()
    error = found - expected
    # An f32 number beside a step of the table of GELU may take the other one.
    assert rms(error) < 1e-4 if case.startswith("Gemma") else error.abs().max() < 1e-5
    assert expected.std() > 0.2  # a model that says nothing would agree too


@pytest.fixture(scope="module")
def plain_errors(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Of each kind of file, how far off a plain Llama is (rms)."""
    model, path = make("Llama"), tmp_path_factory.mktemp("plain") / "model.gguf"
    errors = {}
    for kind in KINDS:
        write_gguf(model, tokenizer, path, kind)
        errors[kind] = rms(llama_cpp_log_probs(path) - log_probs(model))
    return errors


def test_finer_kinds_err_less(plain_errors: dict[str, float]) -> None:
    order = ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
    assert sorted(plain_errors, key=plain_errors.__getitem__) == order
    assert plain_errors["bf16"] < 0.01 and plain_errors["q8_0"] < 0.04 and plain_errors["q4_0"] < 0.4


@pytest.mark.parametrize("kind", ["bf16", "q8_0"])
@pytest.mark.parametrize(
    "case", ["Qwen3", "Gemma2", "Olmo2", "Qwen2Moe", "Glm4Moe", "Glm4Moe, scaled", "GraniteMoeShared, scaled"]
)
def test_a_coarser_file_errs_as_a_plain_llama_does(
    case: str, kind: str, tokenizer: Any, plain_errors: dict[str, float], tmp_path: Path
) -> None:
    model, path = make(case), tmp_path / "model.gguf"
    write_gguf(model, tokenizer, path, kind)
    assert rms(llama_cpp_log_probs(path) - log_probs(model)) < 1.5 * plain_errors[kind]


@pytest.mark.parametrize("case", ["Glm4Moe", "Glm4Moe, scaled", "GraniteMoeShared, scaled"])
def test_a_gate_may_be_zero(case: str, tokenizer: Any, tmp_path: Path) -> None:
    model, path = make(case), tmp_path / "model.gguf"
    gates = [
        weight for name, weight in model.named_parameters() if name.endswith(("mlp.gate.weight", "router.weight"))
    ]
    assert len(gates) == 2
    for gate_ED in gates:
        gate_ED[0] = 0  # half of the block is taken, whatever the token
    write_gguf(model, tokenizer, path, "f32")
    assert (llama_cpp_log_probs(path) - log_probs(model)).abs().max() < 1e-5


@pytest.mark.parametrize("case", ["Llama", "Llama, scaled", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_an_extended_model_by_its_twin(case: str, blocks: int, tokenizer: Any, tmp_path: Path) -> None:
    def extended(gate: str) -> Any:
        model = make(case)
        for number in range(blocks):
            extend(model, "neutral", fraction=0.3 + 0.2 * number, gate=gate, gate_bias=False)
        for number, (name, weight) in enumerate(model.named_parameters()):
            if ".block." in name:
                weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.1
        return model.requires_grad_(False)

    path = tmp_path / "model.gguf"
    expected = log_probs(extended("sigmoid"))
    assert (expected - log_probs(make(case))).abs().max() > 0.3  # that a twin without blocks would be off by
    kinds = ["glm4_moe", *["granite"] * (case.startswith("Llama") and blocks == 1)]
    for kind in kinds:
        write_gguf(native(extended("sigmoid"), [kind]).model, tokenizer, path, "f32")
        assert (llama_cpp_log_probs(path) - expected).abs().max() < 1e-5, kind
    expected = log_probs(extended("none"))
    write_gguf(native(extended("none")).model, tokenizer, path, "f32")
    assert (llama_cpp_log_probs(path) - expected).abs().max() < 1e-5


def test_a_window_bounds_the_texts_of_a_model_whose_layers_slide(tokenizer: Any, tmp_path: Path) -> None:
    model, path = make("Mistral", sliding_window=22), tmp_path / "model.gguf"
    write_gguf(model, tokenizer, path, "f32")
    assert gguf.GGUFReader(path).get_field("llama.context_length").contents() == 22
    assert (llama_cpp_log_probs(path) - log_probs(model)).abs().max() < 1e-5


# The file -----------------------------------------------------------------------------------------


def test_what_is_stored_in_which_type(tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.gguf"
    with caplog.at_level(logging.WARNING):
        write_gguf(make("Glm4Moe, norms"), tokenizer, path, "q8_0")
        assert not caplog.text
        types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
        exact = {name for name, kind in types.items() if kind != "Q8_0"}
        assert {types[name] for name in exact} == {"F32"}
        kinds = {name.split(".", 2)[-1] if name.startswith("blk.") else name for name in exact}
        norms = {"attn_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight", "post_attention_norm.weight"}
        assert kinds == norms | {"output_norm.weight", "ffn_gate_inp.weight", "exp_probs_b.bias"}
        write_gguf(make("Olmo2"), tokenizer, path, "q4_0")  # an FFN of 103
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert {name for name, kind in types.items() if kind == "BF16"} == {f"blk.{i}.ffn_down.weight" for i in (0, 1)}
    assert "2 tensors stay in bf16 (blk.0.ffn_down.weight, " in caplog.text


def test_a_tied_head_is_written_once(tokenizer: Any, tmp_path: Path) -> None:
    for tied, name in ((True, "Llama"), (False, "Llama"), (True, "Olmo2")):
        model = make(name, tie_word_embeddings=tied)
        write_gguf(model, tokenizer, tmp_path / "model.gguf")
        names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
        assert ("output.weight" in names) == (not tied or name == "Olmo2")  # llama.cpp's OLMo 2 wants it
    model = make("Llama", tie_word_embeddings=False)  # as a twin is, whose head is a copy
    model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    assert "output.weight" not in {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}


def test_a_file_says_what_it_is(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    about = {"name": "a\x1b[2J\nb", "license": "mit", "languages": ["en", "no"], "base_model": "some/backbone"}
    write_gguf(make("Llama"), tokenizer, path, "q8_0", about)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("general.")}
    assert fields == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "general.name": "a[2J b",
        "general.license": "mit",
        "general.languages": ["en", "no"],
        "general.base_model.count": 1,
        "general.base_model.0.name": "some/backbone",
    }
    write_gguf(make("Llama"), tokenizer, path)
    assert "general.name" not in gguf.GGUFReader(path).fields


def test_the_numbers_of_kinds_are_those_of_llama_cpp() -> None:
    assert {
        kind: getattr(gguf.LlamaFileType, f"{'ALL' if kind == 'f32' else 'MOSTLY'}_{kind.upper()}")
        for kind in KINDS
    } == KINDS


def test_a_tensor_larger_than_what_is_converted_at_a_time(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("Glm4Moe, norms")
    for kind in ("f32", "bf16", "q8_0"):
        write_gguf(model, tokenizer, tmp_path / "whole.gguf", kind)
        with monkeypatch.context() as patch:
            patch.setattr("models.gguf_file.AT_ONCE", 200)  # three rows
            write_gguf(model, tokenizer, tmp_path / "parts.gguf", kind)
        assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()


def test_this_toolkit_reads_what_it_writes(tokenizer: Any, tmp_path: Path) -> None:
    model = make("Llama").bfloat16()
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    convert_gguf(str(tmp_path / "model.gguf"), str(tmp_path / "folder"))
    again = load_backbone(str(tmp_path / "folder")).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())
    text = "Élan 42\n\t🙂 <|endoftext|>"
    assert load_tokenizer(str(tmp_path / "folder"))(text).input_ids == tokenizer(text).input_ids


# What is refused ----------------------------------------------------------------------------------

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("Llama", {"hidden_act": "gelu"}, "hidden_act is gelu, and silu in llama.cpp"),
    ("Llama", {"rope_parameters": YARN}, "its rope is scaled .yarn.*take rope_scaling out"),
    ("Llama", {"rope_parameters": PLAIN | {"rope_type": "dynamic", "factor": 2.0}}, "scaled .dynamic"),
    ("Qwen2", {"rope_parameters": SCALED}, "scaled .llama3.*llama.cpp's qwen2"),
    ("Qwen2", {"head_dim": 32}, "head_dim is 32, and 16"),
    ("Qwen3", {"attention_bias": True}, "attention_bias is True"),
    ("Gemma", {"tie_word_embeddings": False}, "its output head is not its embeddings"),
    ("Gemma2", {"attn_logit_softcapping": None}, "its logits are not capped"),
    ("Gemma3", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar is 16, and 32"),
    ("Gemma3", {"rope_parameters": BOTH | {"sliding_attention": LINEAR}}, "the rope of its sliding layers"),
    ("Qwen2Moe, 2 of 4", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    ("Glm4Moe", {"first_k_dense_replace": 1}, "first_k_dense_replace is 1"),
    ("Glm4Moe", {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
]


@pytest.mark.parametrize(("case", "changes", "problem"), REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused(
    case: str, changes: dict[str, Any], problem: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{problem}.*export it as a folder"):
        write_gguf(make(case, **changes), tokenizer, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_other_models_and_kinds_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    config = transformers.GPT2Config(vocab_size=ROWS, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="GPT2LMHeadModel; export it as a folder"):
        write_gguf(transformers.GPT2LMHeadModel(config), tokenizer, path)
    extended = make("Llama")
    extend(extended, "neutral", fraction=0.3)
    with pytest.raises(ValueError, match="is no weight of a plain LlamaForCausalLM"):
        write_gguf(extended, tokenizer, path)
    with pytest.raises(ValueError, match=r"'q4_k_m' is no kind .* take one of f32, f16"):
        write_gguf(make("Llama"), tokenizer, path, "q4_k_m")
    assert not path.exists()


def test_a_file_that_cannot_be_written_whole_is_deleted(tokenizer: Any, tmp_path: Path) -> None:
    model = make("Llama")
    model.model.layers[1].mlp.down_proj.weight.data[3, 3] = 1e5
    with pytest.raises(ValueError, match=r"blk\.1\.ffn_down\.weight has weights that are too large for f16"):
        write_gguf(model, tokenizer, tmp_path / "model.gguf", "f16")
    assert not list(tmp_path.iterdir())
    write_gguf(model, tokenizer, tmp_path / "model.gguf", "bf16")
