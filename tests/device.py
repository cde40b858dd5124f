"""The device of the tests of models and training: `TEST_DEVICE=cuda pytest tests/models tests/train`.

Exports and saved adapters are made on the CPU, whatever the device of the training; so are those of the tests.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cpu"))
# What a CPU repeats to the bit a GPU may sum in another order, in bf16.
ROUNDING = 0.0 if DEVICE.type == "cpu" else 5e-3


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal to the bit on a CPU, but for rounding on a GPU."""
    return torch.equal(ours, theirs) or torch.allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING)
