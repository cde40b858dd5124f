"""GGUF files in K-quants: those that llama.cpp's quantiser makes of ours load, and err little."""

import sys
from pathlib import Path
from typing import Any

import pytest
from test_gguf_file import GLM_SCALED, ROWS, llama_cpp_log_probs, log_probs, make, rms, tokenizer  # noqa: F401

from models import gguf_quantise
from models.gguf_file import write_gguf
from models.gguf_quantise import K_KINDS, quantise

gguf = pytest.importorskip("gguf")

needs_quantiser = pytest.mark.skipif(gguf_quantise.find_library() is None, reason="no library of llama.cpp")
WIDE = {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.05}


@needs_quantiser
@pytest.mark.parametrize("case", ["Llama", "Glm4Moe", "Glm4Moe, scaled", "GraniteMoeShared, scaled"])
def test_a_file_in_k_quants_errs_little(case: str, tokenizer: Any, tmp_path: Path) -> None:  # noqa: F811
    experts = {"moe_intermediate_size": 256, "n_shared_experts": 2, "head_dim": 64} if "Glm" in case else {}
    experts |= {"intermediate_size": 256, "shared_intermediate_size": 512} if "Granite" in case else {}
    model = make(case, **WIDE | experts)
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    expected, sizes, errors = log_probs(model), [], []
    for kind in K_KINDS:
        path = tmp_path / f"{kind}.gguf"
        quantise(tmp_path / "model.gguf", path, kind)
        field = gguf.GGUFReader(path).get_field("general.file_type")
        assert field.contents() == getattr(gguf.LlamaFileType, f"MOSTLY_{kind.upper()}") == K_KINDS[kind]
        sizes.append(path.stat().st_size)
        errors.append(rms(llama_cpp_log_probs(path) - expected))
    assert sizes == sorted(sizes) and sizes[-1] < 0.45 * (tmp_path / "model.gguf").stat().st_size
    assert errors[2] < 0.4 and errors[-1] < 0.1 and errors == sorted(errors, reverse=True)


@needs_quantiser
def test_what_the_quantiser_does_not_take_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF, and nothing else")
    with pytest.raises(ValueError, match=r"q4_k_m: .* failed on .*model\.gguf \(-?\d+: .+\)"):
        quantise(tmp_path / "model.gguf", tmp_path / "small.gguf", "q4_k_m")
    assert not (tmp_path / "small.gguf").exists()


def test_the_program_of_llama_cpp_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "llama-quantize"
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\npathlib.Path(sys.argv[2]).write_text(repr(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    quantise("-model.gguf", "-small.gguf", "q5_k_m", threads=3)
    called = [str(tmp_path / "-model.gguf"), str(tmp_path / "-small.gguf"), "Q5_K_M", "3"]
    assert (tmp_path / "-small.gguf").read_text() == repr(called)
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no\\x1b[2J such kind')\n")
    with pytest.raises(ValueError, match=r"llama-quantize failed on -model\.gguf \(1: no\[2J such kind\)"):
        quantise("-model.gguf", "-small.gguf", "q5_k_m")
    assert not (tmp_path / "-small.gguf").exists()


def test_without_a_quantiser_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gguf_quantise, "PACKAGES", ())
    with pytest.raises(ValueError, match=r"q4_k_m: there is no quantiser .* install llama"):
        quantise(tmp_path / "model.gguf", tmp_path / "small.gguf", "q4_k_m")
    with pytest.raises(ValueError, match=r"'q4_0' is no kind .*; take one of q2_k"):
        quantise(tmp_path / "model.gguf", tmp_path / "small.gguf", "q4_0")
