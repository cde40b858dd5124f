"""The table of architectures: what it says of one that passes, is refused, cannot be made, or fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from benchmarks.architectures import checks, tiny
from models.loss import token_nll


@pytest.mark.parametrize("name", ["llama", "qwen3_5_text", "zamba2", "gpt2", "deepseek_v3"])
def test_a_tiny_model_has_every_kind_of_layer_and_few_weights(name: str) -> None:
    model = tiny.make(name)
    assert sum(weight.numel() for weight in model.parameters()) < 200_000
    assert model(input_ids=torch.arange(4, 20)[None]).logits.shape == (1, 16, tiny.VOCABULARY)
    kinds = getattr(model.config, "layer_types", None)
    assert kinds is None or len(set(kinds)) == (1 if name in ("llama", "gpt2") else 2)


def test_all_architectures_of_transformers_are_tried() -> None:
    assert {"llama", "mamba", "gpt2", "qwen3_5_text"} < set(tiny.architectures())


def test_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"loss": checks.losses})
    assert checks.try_architecture("llama", tmp_path / "a")["outcome"] == "passes"
    refused = checks.try_architecture("bloom", tmp_path / "b")
    assert refused["outcome"] == "refused" and "BloomMLP" in refused["said"]
    assert checks.try_architecture("none such", tmp_path / "c")["outcome"] == "not made"
    monkeypatch.setattr(checks, "token_nll", lambda model, tokens_BT1: token_nll(model, tokens_BT1) + 0.1)
    failed = checks.try_architecture("llama", tmp_path / "d")
    assert (failed["outcome"], failed["said"]) == ("fails later", "loss: the loss of a token: off by 0.1")


@pytest.mark.long
@pytest.mark.slow
def test_an_architecture_in_a_process_of_its_own() -> None:
    """Started from another one, with which the server of processes ends."""
    call = "import json; from benchmarks.architectures.process import in_a_process as tried"
    command = [sys.executable, "-c", f"{call}; print(json.dumps(tried('gemma2')))"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row == {
        "architecture": "gemma2",
        "outcome": "passes",
        "documents": "apart",
        "scoring": "cached",
        "generation": "",
        "export": "plain, with code",
        "said": "",
    }
