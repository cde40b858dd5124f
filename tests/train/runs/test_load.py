"""Runs are loaded as they were built: with the width that their record says, whatever is built today."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from device import DEVICE
from helpers import run_record, write_tokenizer
from safetensors.torch import save_file

from models.backbone import create_llama, load_tokenizer, save_backbone
from models.extend import extend, trainable_state
from pipeline.common.errors import StageError
from pipeline.workflow.layout import WEIGHTS
from train.runs.load import load_for, load_run
from train.runs.record import write_record

WIDTH = 67  # as older versions built it; today's are multiples of 8 here


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone")
    sizes = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24, "vocabulary": 64, "row_tokens": 16}
    save_backbone(create_llama(**sizes), load_tokenizer(write_tokenizer(folder / "tokenizer")), folder / "model")
    return str(folder / "model")


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
def test_a_run_of_another_width_is_loaded(backbone: str, tmp_path: Path, method: str) -> None:
    model = load_for(backbone, DEVICE)
    assert extend(load_for(backbone, DEVICE), method, fraction=0.2).width != WIDTH
    extend(model, method, width=WIDTH)
    weights = {name: torch.randn_like(weight).cpu() for name, weight in trainable_state(model).items()}
    record = replace(run_record(method, fraction=0.2), width=WIDTH)
    write_record(tmp_path, record)
    save_file(weights, tmp_path / WEIGHTS)
    loaded = dict(load_run(backbone, str(tmp_path), DEVICE).named_parameters())
    assert all(torch.equal(loaded[name].cpu(), weight.to(loaded[name].dtype)) for name, weight in weights.items())

    for width, message in ((10**12, "asks for .* weights, and it has"), (-1, "of width -1 adds nothing")):
        write_record(tmp_path, replace(record, width=width))
        with pytest.raises(StageError, match=f"does not fit the backbone .*{message}"):
            load_run(backbone, str(tmp_path), DEVICE)
