"""Extending a decoder: which weights are added where, by each of the four methods, and how they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import unique_parameters
from models.block import Context, NeutralBlock


class ExtendError(ValueError):
    """A model that cannot be extended, or weights that do not belong to it; the message says why."""


class ExtendedFFN(nn.Module):
    """The FFN of a decoder layer and a block beside it, fed the same normed input."""

    def __init__(self, ffn: nn.Module, block: NeutralBlock) -> None:
        super().__init__()
        self.ffn, self.block = ffn, block

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.ffn(x_BTD) + self.block(x_BTD)


@dataclass(frozen=True)
class Extension:
    """What was added: `width` is the block's M or LoRA's r; finetune adds nothing.

    `context` tells the blocks of a neutral extension what is in flight; the others need none.
    """

    method: str
    backbone_parameters: int
    extra_parameters: int
    width: int
    context: Context

    @property
    def fraction(self) -> float:
        """Extra weights over the backbone's: what rounding left of the fraction asked for."""
        return self.extra_parameters / self.backbone_parameters


def extend(
    model: Any,
    method: str,
    *,
    fraction: float = 0.2,
    gate: str = "elu",
    init: str = "low_variance",
    seed: int = 0,
) -> Extension:
    """Add the weights of a method to `model` in place, and leave only those trainable, in fp32.

    METHOD, Block and Methods compared. The model's outputs stay as they were, to the bit (finetune: when
    the model is in fp32). Raises ExtendError where the model's layers are not understood.
    """
    layers = decoder_layers(model)
    backbone = unique_parameters(model)
    context, width = Context(), 0
    torch.manual_seed(seed)
    model.requires_grad_(method == "finetune")
    if method == "finetune":
        model.float()
    elif method == "lora":
        width = _add_lora(model, layers, fraction * backbone)
    elif method == "adapter":
        width = _add_blocks(model, layers, fraction * backbone, "none", "he", context)
    elif method == "neutral":
        width = _add_blocks(model, layers, fraction * backbone, gate, init, context)
    else:
        raise ExtendError(f"no method {method!r}; choose finetune, lora, adapter or neutral")
    return Extension(method, backbone, unique_parameters(model) - backbone, width, context)


def decoder_layers(model: Any) -> list[Any]:
    """The ModuleList of num_hidden_layers items that have `.mlp`. Raises ExtendError if there is none."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for candidate in lists:
        if len(candidate) == count and all(isinstance(getattr(x, "mlp", None), nn.Module) for x in candidate):
            if any("expert" in name for name, _ in candidate.named_modules()):
                raise ExtendError(_refusal(model, "its FFN is a mixture of experts"))
            return list(candidate)
    reason = f"no list of {count} layers that each have .mlp was found"
    raise ExtendError(_refusal(model, reason))


def _refusal(model: nn.Module, reason: str) -> str:
    known = "Llama, Qwen, Gemma, Mistral, OLMo, Phi, NeoX and GPT-2 are known to work"
    return f"cannot extend a {type(model).__name__}: {reason}; {known}"


def ffn_projections(ffn: nn.Module) -> dict[str, tuple[int, int]]:
    """The linear modules of an FFN by name, with their (inputs, outputs). Conv1D is GPT-2's linear."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, tuple[int, int]] = {}
    for name, module in ffn.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            found[name] = (module.nx, module.nf)
    return found


def _activation(model: nn.Module, ffn: nn.Module) -> Callable[[Tensor], Tensor]:
    """The FFN's own activation, under one of the names in use; of the innermost FFN, if extended before."""
    while isinstance(ffn, ExtendedFFN):
        ffn = ffn.ffn
    for name in ("act_fn", "act", "activation_fn", "activation"):
        if callable(activation := getattr(ffn, name, None)):
            return activation
    raise ExtendError(_refusal(model, f"the activation of its {type(ffn).__name__} was not found"))


def _add_blocks(model: Any, layers: list[Any], extra: float, gate: str, init: str, context: Context) -> int:
    """A block beside each FFN; returns their width M = extra / (3 D L)."""
    size, count = model.config.get_text_config().hidden_size, len(layers)
    width = round(extra / (3 * size * count))
    _check_width(width, "block")
    for index, layer in enumerate(layers):
        activation = _activation(model, layer.mlp)
        block = NeutralBlock(size, width, index, count, activation, gate, init, context)
        layer.mlp = ExtendedFFN(layer.mlp, block.to(next(layer.parameters()).device))
    return width


def _add_lora(model: Any, layers: list[Any], extra: float) -> int:
    """LoRA on the FFNs' projections only, by peft; returns its rank, extra / (sum of inputs + outputs).

    For a gated FFN the sum is 3 (D + F) L, as in METHOD.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    sizes = [sum(shape) for layer in layers for shape in ffn_projections(layer.mlp).values()]
    rank = round(extra / sum(sizes))
    _check_width(rank, "LoRA rank")
    linear = {
        id(module) for layer in layers for module in layer.mlp.modules() if isinstance(module, nn.Linear | Conv1D)
    }
    targets = [name for name, module in model.named_modules() if id(module) in linear]
    transposed = any(isinstance(module, Conv1D) for module in layers[0].mlp.modules())
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets, fan_in_fan_out=transposed
    )
    peft.inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return rank


def _check_width(width: int, what: str) -> None:
    if width < 1:
        raise ExtendError(f"the fraction leaves a {what} of width 0; give a larger fraction")


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trainable weights by name, each once (tied ones under their first name), on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_trainable(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy `state` into the trainable weights. Raises ExtendError unless names and shapes are the same."""
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = own.keys() ^ state.keys()
    wrong |= {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    if wrong:
        raise ExtendError(
            f"{len(wrong)} weights do not fit the model, such as {min(wrong)}; "
            "were they trained with other options or for another backbone?"
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])
