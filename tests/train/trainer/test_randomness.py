"""Backbones with dropout are trained without it, so that how a step's rows are shared out changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from device import DEVICE
from helpers import language, write_rows
from tiny import make, tokens
from torch import nn
from transformers import FalconConfig, FalconForCausalLM, OPTConfig, OPTForCausalLM

from models.extend import extend
from models.loss import sum_nll
from train.data.rows import open_rows
from train.runs.options import Run
from train.trainer.loop import TrainingJob, train
from train.trainer.randomness import without_randomness


def test_micro_batches_of_a_backbone_with_dropout_have_the_same_losses(tmp_path: Path) -> None:
    old, new = (open_rows(write_rows(tmp_path / f"{i}.arrow", language(1 + i, 60) % 50)) for i in range(2))
    losses = []
    for size in (8, 3):
        model = make("GPT2").to(DEVICE)
        assert model.config.attn_pdrop == 0.1  # what GPT-2 itself was trained with
        options = Run(
            learning_rate=1e-2,
            alpha=100.0,
            steps=3,
            batch_rows=8,
            micro_batch_rows=size,
            device=DEVICE.type,
            threads=1,
        )
        extension = extend(model, "neutral", fraction=0.5)
        checkpoints = str(tmp_path / str(size))
        state = train(TrainingJob("", model, options, old, new, {}, checkpoints, "", DEVICE, extension.context))
        losses.append([line["loss"] for line in state.metrics if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def falcon() -> Any:
    """Its layers read the rates from the config."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return FalconForCausalLM(FalconConfig(**sizes, hidden_dropout=0.5, attention_dropout=0.5))


def opt() -> Any:
    """It leaves whole layers out."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16, dropout=0.0, layerdrop=0.5))


@pytest.mark.parametrize("build", [lambda: make("GPT2"), falcon, opt])
def test_two_passes_in_train_mode_are_the_same_and_rates_come_back(build: Any) -> None:
    model = build().to(DEVICE).train()
    config, rates = model.config.to_dict(), [m.p for m in model.modules() if isinstance(m, nn.Dropout)]

    def passes() -> list[float]:
        found = []
        for seed in range(4):
            torch.manual_seed(seed)
            found.append(sum_nll(model, tokens().to(DEVICE)).item())
        return found

    assert len(set(passes())) > 1
    with without_randomness(model):
        assert len(set(passes())) == 1
    assert model.config.to_dict() == config
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == rates
    assert len(set(passes())) > 1
