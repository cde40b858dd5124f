"""Weights in 8 bits that are read, and packed ones that are not.

In true FP8 a weight is a matrix of float8_e4m3fn, and beside it lies what it is multiplied with: a number for each
block of rows and columns, or one for all of it (DeepSeek-V3, arXiv 2412.19437, 3.3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.refusals import PLAIN, Refused, is_fp8, quantisation

if TYPE_CHECKING:
    from torch import Tensor, nn

BLOCK = (128, 128)  # where the config says nothing
SCALES = ("_scale_inv", "_scale")  # behind the weight's name; both are multiplied with


def dequantise(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in bf16 that those in FP8 stand for, if config.json says that they are; scales are left out.

    As transformers has them: the product in fp32, rounded. Raises Refused for scales that do not fit.
    """
    import torch

    about = quantisation(config)
    if not is_fp8(about):
        return weights
    block = about.get("weight_block_size") or BLOCK
    if not (isinstance(block, list | tuple) and len(block) == 2 and all(type(x) is int and x > 0 for x in block)):
        raise Refused("config.json: weight_block_size is not two sizes; download the model again")
    plain = {}
    for name, weight in weights.items():
        scale = next((weights[name + end] for end in SCALES if name + end in weights), None)
        if scale is not None and weight.dtype == torch.float8_e4m3fn and weight.dim() > 1:
            plain[name] = _product(name, weight, scale, block)
        elif not name.endswith(SCALES):
            plain[name] = weight
    return plain


def _product(name: str, weight: Tensor, scale: Tensor, block: Sequence[int]) -> Tensor:
    import torch

    # A byte is the exponent alone.
    scale = (scale.float() - 127).exp2() if scale.dtype == torch.uint8 else scale.float()
    misfit = f"{name}: its FP8 scale of {list(scale.shape)} does not fit it; download the model again"
    if scale.numel() == 1:
        scale = scale.reshape([1] * weight.dim())
    elif scale.dim() == weight.dim() - 1:  # one for each row
        scale = scale.unsqueeze(-1)
    if scale.dim() != weight.dim() or scale.shape[:-2] not in (weight.shape[:-2], (1,) * (weight.dim() - 2)):
        raise Refused(misfit)
    for axis, size in zip((-2, -1), block, strict=True):
        count, length = scale.shape[axis], weight.shape[axis]
        if count != -(-length // size):  # other blocks than the config says, all of one size
            size, rest = divmod(length, max(1, count))
            if rest or not size:
                raise Refused(misfit)
        scale = scale.repeat_interleave(min(size, length), axis).narrow(axis, 0, length)
    return (weight.float() * scale).bfloat16()


def check_plain(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Raises Refused where what the model's modules take is packed: small whole numbers, or floats of 8 bits.

    Masks that older models keep beside their modules are such numbers too, and tables of positions large ones.
    """
    import torch

    owners = {path.rpartition(".")[2] for path, module in model.named_modules() if module._parameters}
    owners = {name for name in owners if not name.isdigit()} - {""}
    for name, weight in weights.items():
        size = weight.element_size()
        plain = size == 8 or weight.dtype == torch.bool or (weight.is_floating_point() and size > 1)
        parts = re.sub(r"_(blocks|scales)$", "", name).split(".")  # MXFP4 has them behind the module's name
        if not plain and not owners.isdisjoint(parts):
            kind = str(weight.dtype).removeprefix("torch.")
            raise Refused(f"quantised weights, of which config.json says nothing ({name} is {kind}); {PLAIN}")
