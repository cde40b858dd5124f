"""Inference speed of an extended model beside its backbone: how fast it reads text, and how fast it writes.

On old text and on new, since a block costs what its gate lets through.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backbone import compute
from models.loss import token_nll
from models.positions import room_behind
from train.data.rows import Rows
from train.runs.results import Amounts, Rates, Speed, TextSpeed

# Rounds that count. Those of a large model on a CPU are long: after SECONDS no more begins, but FEWEST are made.
ROUNDS, FEWEST, SECONDS = 7, 2, 30.0
# Tokens of one scoring pass; tokens of a prompt, and those written behind it, one text at a time.
SCORED, PROMPT, WRITTEN = 4096, 32, 64


def measure_speed(models: dict[str, Any], old: Rows, new: Rows | None, device: torch.device) -> Speed:
    """Speed of each model on rows of an old domain, and of a new one, if there is one."""
    first = measure_on(models, old, device)
    return Speed(
        tokens=first.tokens,
        speeds=first.speeds,
        device=device.type,
        threads=torch.get_num_threads(),
        new=None if new is None else measure_on(models, new, device),
    )


def measure_on(models: dict[str, Any], rows: Rows, device: torch.device) -> TextSpeed:
    """Tokens a second of `scoring` whole rows and of `writing`, for each model: the fastest of ROUNDS,
    or of those that began within SECONDS.

    The models take turns, so that a slow moment of the machine hits all of them, and what else runs there can
    only slow them down; the first round, in which caches fill, does not count. LoRA and blocks are measured
    beside the backbone's weights, not folded in.
    """
    count = max(1, min(SCORED // rows.row_tokens, len(rows)))
    tokens_BT1 = torch.from_numpy(rows.tokens(np.arange(count))).to(device)
    prompt_1T = tokens_BT1[:1, : min(PROMPT, rows.row_tokens // 2)]
    seconds: dict[str, dict[str, list[float]]] = {name: {"scoring": [], "writing": []} for name in models}
    start = time.perf_counter()
    for number in range(1 + ROUNDS):
        if number > FEWEST and time.perf_counter() - start > SECONDS:
            break
        for name, model in models.items():
            with torch.no_grad(), compute(device, model):
                seconds[name]["scoring"].append(_seconds(partial(token_nll, model, tokens_BT1), device))
                seconds[name]["writing"].append(_seconds(partial(_write, model, prompt_1T), device))
    scored, wrote = tokens_BT1[:, 1:].numel(), tokens_to_write(next(iter(models.values())), prompt_1T)
    return TextSpeed(
        tokens=Amounts(scoring=scored, writing=wrote),
        speeds={
            name: Rates(scoring=scored / min(took["scoring"][1:]), writing=wrote / min(took["writing"][1:]))
            for name, took in seconds.items()
        },
    )


def tokens_to_write(model: Any, prompt_1T: Tensor) -> int:
    """How many tokens to write: WRITTEN, or fewer where the model is not made for so long a text."""
    return room_behind(model.config, prompt_1T.shape[1], WRITTEN)


def _write(model: Any, prompt_1T: Tensor) -> Tensor:
    count = tokens_to_write(model, prompt_1T)
    out: Tensor = model.generate(
        prompt_1T,
        attention_mask=torch.ones_like(prompt_1T),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
    )
    return out


def _seconds(do: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    do()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
