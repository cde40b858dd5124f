"""AdamW and the learning rate over the steps: docs/method.md, Optimisation (paper, 4.1 and Table 9)."""

from __future__ import annotations

import math
from typing import Any

import torch

from pipeline.common.config import as_written
from train.distributed import is_sharded
from train.runs.options import Training


def make_optimizer(model: Any, options: Training) -> torch.optim.Optimizer:
    """Fused AdamW over the trainable weights; matrices decay, but gates, norms and biases don't."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, weight in named:
        decays = weight.ndim >= 2 and ".block.gate." not in name
        # A fused step does not mix sharded weights with others.
        groups.setdefault((not decays, is_sharded(weight)), []).append(weight)
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": 0.0 if plain else options.weight_decay}
            for (plain, _), weights in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=True,
    )


def learning_rate(step: int, options: Training) -> float:
    """Linear warm-up, then a cosine to final_share of the peak at the last step (docs/method.md, Optimisation).

    >>> options = Training(learning_rate=1.0, steps=8, warmup_share=0.25, final_share=0.1)
    >>> [round(learning_rate(step, options), 2) for step in range(8)]
    [0.5, 1.0, 0.94, 0.78, 0.55, 0.33, 0.16, 0.1]
    """
    warmup = math.ceil(as_written(options.warmup_share) * options.steps)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    done = (step - warmup + 1) / max(1, options.steps - warmup)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return options.learning_rate * (options.final_share + (1 - options.final_share) * cosine)
