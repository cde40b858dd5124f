"""What a training step costs by count, and the share of the hardware's speed that it reaches (MFU)."""

from __future__ import annotations

from typing import Any

import torch

# Dense bf16 FLOP/s of one device, from the makers' data sheets, by a part of the name that torch gives it.
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}


def flops_per_token(model: Any, row_tokens: int) -> float:
    """FLOPs that training needs for a token of rows of `row_tokens` (T), nothing recomputed. METHOD, Cost.

    6 for each trainable weight and 4 for each frozen one, through which the gradient only passes; an input
    embedding that is no output head too is looked up and costs nothing. Attention: 12 T for each layer and
    unit of its width, the T x T products counted whole, as is the custom.
    """
    config = model.config.get_text_config()
    weights = {id(weight): weight for weight in model.parameters()}
    head = model.get_output_embeddings()
    lookup = model.get_input_embeddings().weight
    if head is None or head.weight is not lookup:
        weights.pop(id(lookup), None)
    passes = sum(weight.numel() * (6 if weight.requires_grad else 4) for weight in weights.values())
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or _head_width(config))
    return passes + 12 * config.num_hidden_layers * width * row_tokens


def _head_width(config: Any) -> int:
    return int(config.hidden_size // config.num_attention_heads)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of the device, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
