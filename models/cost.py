"""What a training costs, by docs/method.md, Cost: floating point operations a token, and memory.

A model need not have weights for it: the `meta` device is enough. MFU is the share of a device's peak speed that
a training reaches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.extend import decoder_layers

# FLOP/s of one H100 in dense bf16, by NVIDIA's data sheet.
H100_FLOPS = 989e12
# Dense bf16 FLOP/s of one device, from the makers' data sheets, by a part of the name that torch gives it.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": H100_FLOPS,
    "H200": H100_FLOPS,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def flops_per_token(model: Any, row_tokens: int) -> int:
    """FLOPs of training on a token: 6 a trainable weight in matrix products, 4 a frozen one, and attention.

    The weights that only look up (embeddings) or scale (norms) take no part. Required operations, so
    nothing for recomputation; attention over all T, though half of it is masked, as is usual. What needs
    no backward pass below the first block is counted all the same: a part of one layer.
    """
    weights = [linear.weight for linear in _linears(model)]
    products: int = sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights)
    return products + attention_flops(model, row_tokens)


def attention_flops(model: Any, row_tokens: int) -> int:
    """FLOPs of a token's attention to T tokens, scores and values, forward and backward, in all layers."""
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers: int = config.num_hidden_layers * config.num_attention_heads * head
    return 12 * numbers * row_tokens


def state_bytes(model: nn.Module) -> int:
    """Bytes of weights, gradients and AdamW: 2 for a frozen weight (bf16), 16 for a trainable one (fp32)."""
    return sum((16 if weight.requires_grad else 2) * weight.numel() for weight in model.parameters())


def activation_bytes(model: Any, checkpointing: bool) -> int:
    """Bytes a token in training, about: what goes into and comes out of each linear module, in bf16.

    With activation checkpointing, the layers' inputs and the inside of one layer.
    """
    layers = decoder_layers(model)
    inside = [2 * sum(sum(linear.weight.shape) for linear in _linears(layer)) for layer in layers]
    if not checkpointing:
        return sum(inside)
    return max(inside) + 2 * len(layers) * int(model.config.get_text_config().hidden_size)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of the device; None where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _linears(module: nn.Module) -> list[Any]:
    from transformers.pytorch_utils import Conv1D

    return [child for child in module.modules() if isinstance(child, nn.Linear | Conv1D)]
