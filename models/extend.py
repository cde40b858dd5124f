"""Extending a decoder: which weights are added where, by each of the four methods, and how they are read and set.

Shapes: B rows, T tokens of a row, D width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import unique_parameters
from models.block import NeutralBlock
from models.local_losses import Context
from models.modeling_neutral import POST_NORMS, activation_name, post_norm


class ExtendError(ValueError):
    """A model that cannot be extended, or weights that do not belong to it; the message says why."""


class ExtendedFFN(nn.Module):
    """The FFN of a decoder layer and a block beside it, fed the same normed input x_BTD.

    Returns FFN(x) + out(x). With `after_norm` it returns FFN(x) alone and keeps out(x), the residue, for the
    ExtendedNorm that follows the FFN.
    """

    residue_BTD: Tensor

    def __init__(self, ffn: nn.Module, block: NeutralBlock, after_norm: bool = False) -> None:
        super().__init__()
        self.ffn, self.block, self.after_norm = ffn, block, after_norm

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.ffn(x_BTD)
        out_BTD: Tensor = self.block(x_BTD)
        if not self.after_norm:
            return y_BTD + out_BTD
        self.residue_BTD = out_BTD
        return y_BTD

    def take_residue(self) -> Tensor:
        """What the block computed; it is kept no longer, so that its memory is free after the norm."""
        residue_BTD = self.residue_BTD
        del self.residue_BTD
        return residue_BTD


class ExtendedNorm(nn.Module):
    """The norm that follows an FFN, plus the residue: norm(FFN(x)) + out(x).

    `take_residue` is the extended FFN's method. The FFN itself would be registered here as a second module.
    """

    def __init__(self, norm: nn.Module, take_residue: Callable[[], Tensor]) -> None:
        super().__init__()
        self.norm, self.take_residue = norm, take_residue

    def forward(self, y_BTD: Tensor) -> Tensor:
        normed_BTD: Tensor = self.norm(y_BTD)
        return normed_BTD + self.take_residue()


FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
METHODS = ("finetune", "lora", "adapter", "neutral")
# Where a block's output is added, in layers that norm what comes out of their FFN (Gemma 2 and 3, OLMo2, GLM 4).
PLACEMENTS = ("before_norm", "after_norm")


@dataclass(frozen=True)
class Extension:
    """What extend() added to a model: `width` is the block's M or LoRA's r; finetune adds nothing.

    `context` switches the local losses of its blocks on; without blocks it has no effect. What is kept of an
    extension on disk is a models.adapter.SavedExtension.
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
    width: int | None = None,
    gate: str = "elu",
    gate_bias: bool = True,
    init: str = "low_variance",
    placement: str = "before_norm",
    seed: int = 0,
) -> Extension:
    """Add the weights of a method to `model` in place, and leave only those trainable, in fp32.

    docs/method.md, Block, Methods compared and Stacking (paper, section 3). The model's outputs stay as they
    were, to the bit (finetune: when the model is in fp32). A model that has blocks already keeps them, frozen, and
    the new ones' outputs are added to theirs; the fraction is of the backbone without them. LoRA that it has is
    merged first. `width` is that of an extension made before, in place of a fraction. `placement` matters only
    where a norm follows the FFN. Raises ExtendError where the model's layers are not understood, or the width is
    below 1.
    """
    if method not in METHODS:
        raise ExtendError(f"no method {method!r}; choose one of {', '.join(METHODS)}")
    merge_lora(model)
    layers = extendable_layers(model)
    before, backbone = unique_parameters(model), backbone_parameters(model)
    if method == "finetune":
        width = 0
    elif width is None:
        extra = Fraction(str(fraction)) * backbone  # of the decimal as written
        width = round_width(extra / weights_per_width(model, method))
    if width < 1 and method != "finetune":
        raise ExtendError(f"a block or LoRA of width {width} adds nothing; give a larger fraction")
    context = Context()
    torch.manual_seed(seed)
    model.requires_grad_(method == "finetune")
    if method == "finetune":
        model.float()
        _round_embeddings(model)
    elif method == "lora":
        _add_lora(model, layers, width)
    elif method == "adapter":
        make = partial(NeutralBlock, gate="none", init="he", context=context)
        _add_blocks(model, layers, width, make, placement)
    else:
        make = partial(NeutralBlock, gate=gate, init=init, context=context, bias=gate_bias)
        _add_blocks(model, layers, width, make, placement)
    return Extension(method, backbone, unique_parameters(model) - before, width, context)


def round_width(width: Fraction | float) -> int:
    """The width that is built for one that a fraction asks for: docs/method.md, Widths.

    From 64 on, rows of bf16 numbers are then multiples of 16 bytes, as the fast products of a GPU want them, and
    of 128 bytes from 512 on. Such a width is at most 1/16 off, so that budgets stay fair.

    >>> [round_width(width) for width in (44.8, 141.5, 179.4, 519, 570)]
    [45, 144, 176, 512, 576]
    """
    multiple = 64 if width >= 512 else 8 if width >= 64 else 1
    return multiple * round(width / multiple)


def weights_per_width(model: Any, method: str) -> int:
    """Weights that a width of 1 adds: 3 D L of blocks, the sum of inputs + outputs of the FFNs' linears of LoRA.

    docs/method.md, Widths (paper, 4.1). Of a model without LoRA: its matrices would count as the FFNs' own.
    """
    layers = decoder_layers(model)
    if method != "lora":
        return 3 * int(model.config.get_text_config().hidden_size) * len(layers)
    shapes = [shape for layer in layers for shape in ffn_projections(plain_ffn(layer.mlp)).values()]
    return sum(map(sum, shapes))


def _round_embeddings(model: nn.Module) -> None:
    """Under autocast, embeddings leave in its dtype, and so does every layer's sum, as with all other methods.

    Embeddings in fp32 would make all those sums fp32: twice the memory and its traffic.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(_to_autocast_dtype)


def _to_autocast_dtype(_module: nn.Module, _inputs: Any, x_BTD: Tensor) -> Tensor:
    kind = x_BTD.device.type
    return x_BTD.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x_BTD


def backbone_parameters(model: nn.Module) -> int:
    """N of docs/method.md: the model's weights, tied ones counted once, without the blocks added to it."""
    blocks = [module for module in model.modules() if isinstance(module, NeutralBlock)]
    return unique_parameters(model) - sum(map(unique_parameters, blocks))


def extendable_layers(model: Any) -> list[Any]:
    """decoder_layers() of a model that may be extended. Raises ExtendError where it is none, or an export.

    An export's blocks would count as the backbone's, and be lost to its own export.
    """
    layers = decoder_layers(model)
    if hasattr(model.config, "neutral_residues"):
        raise ExtendError(
            "cannot extend an export, which has blocks already; to add another language, take its backbone, and "
            "its run as `base`"
        )
    return layers


def decoder_layers(model: Any) -> list[Any]:
    """The ModuleList of num_hidden_layers items that have `.mlp`, in the text decoder of the model.

    Raises ExtendError if there is none.
    """
    text = model.config.get_text_config()
    count = getattr(text, "num_hidden_layers", None)
    # A model of images or sounds has layers of those, too, in parts with a config of their own.
    decoder = model if text is model.config else model.get_decoder()
    configs = (type(text), type(model.config), type(None))
    others = [part for part in decoder.modules() if type(getattr(part, "config", None)) not in configs]
    outside = {id(module) for part in others for module in part.modules()}
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    for candidate in (module for module in lists if id(module) not in outside):
        layers: list[Any] = list(candidate)
        if len(layers) == count and all(isinstance(getattr(layer, "mlp", None), nn.Module) for layer in layers):
            if any("expert" in name for name, _ in candidate.named_modules()):
                raise ExtendError(_refusal(model, "its FFN is a mixture of experts"))
            for ffn in {type(ffn): ffn for ffn in (plain_ffn(layer.mlp) for layer in layers)}.values():
                _check_ffn(model, ffn)
            return layers
    reason = f"no list of {count} layers that each have .mlp was found"
    raise ExtendError(_refusal(model, reason))


@torch.no_grad()
def _check_ffn(model: Any, ffn: nn.Module) -> None:
    """Raises ExtendError unless the FFN is a function of one tensor that keeps its shape."""
    weight = next(ffn.parameters(), None)
    if weight is None:
        raise ExtendError(_refusal(model, f"its {type(ffn).__name__} has no weights"))
    x_BTD = weight.new_zeros(1, 1, model.config.get_text_config().hidden_size)
    try:
        y_BTD = ffn(x_BTD)
    except (TypeError, RuntimeError) as error:
        reason = f"its {type(ffn).__name__} does not take one tensor of the model's width ({error})"
        raise ExtendError(_refusal(model, reason)) from None
    if not (isinstance(y_BTD, Tensor) and y_BTD.shape == x_BTD.shape):
        raise ExtendError(_refusal(model, f"its {type(ffn).__name__} gives something else than one such tensor"))


def plain_ffn(ffn: nn.Module) -> nn.Module:
    """The backbone's own FFN, inside whatever was added beside it."""
    while isinstance(ffn, ExtendedFFN):
        ffn = ffn.ffn
    return ffn


def plain_name(name: str, blocks: int) -> str:
    """The name of a weight where `blocks` blocks are part of the FFN (models/modeling_neutral.py), not around it.

    >>> plain_name("h.0.mlp.ffn.block.up_proj.weight", 2), plain_name("h.0.mlp.ffn.ffn.up_proj.weight", 2)
    ('h.0.mlp.blocks.0.up_proj.weight', 'h.0.mlp.up_proj.weight')
    >>> plain_name("layers.0.post_mlp_layernorm.norm.weight", 2)
    'layers.0.post_mlp_layernorm.weight'
    """

    def inside(found: re.Match[str]) -> str:
        depth = found[1].count(".")
        return f".mlp.{found[2] or ''}" if depth == blocks else f".mlp.blocks.{blocks - 1 - depth}."

    name = re.sub(rf"\.({'|'.join(POST_NORMS)})(\.norm)+\.", r".\1.", name)
    return re.sub(rf"\.mlp((?:\.ffn){{0,{blocks}}})\.(block\.)?", inside, name)


def _refusal(model: nn.Module, reason: str) -> str:
    known = "Llama, Qwen, Gemma, Mistral, OLMo, Phi, NeoX and GPT-2 are known to work"
    return f"cannot extend a {type(model).__name__}: {reason}; {known}"


def ffn_projections(ffn: nn.Module) -> dict[str, tuple[int, int]]:
    """The linear modules of an FFN by name, with their (inputs, outputs). Conv1D is GPT-2's linear.

    >>> ffn_projections(nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4)))
    {'0': (4, 16), '2': (16, 4)}
    """
    from transformers.pytorch_utils import Conv1D

    shapes: dict[str, tuple[int, int]] = {}
    for name, module in ffn.named_modules():
        if isinstance(module, nn.Linear):
            shapes[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            shapes[name] = (module.nx, module.nf)
    return shapes


def _activation(model: nn.Module, ffn: nn.Module) -> Callable[[Tensor], Tensor]:
    """The activation of the backbone's own FFN. Raises ExtendError where it has none of the usual names."""
    ffn = plain_ffn(ffn)
    name = activation_name(ffn)
    if name is None:
        raise ExtendError(_refusal(model, f"the activation of its {type(ffn).__name__} was not found"))
    activation: Callable[[Tensor], Tensor] = getattr(ffn, name)
    return activation


def _add_blocks(
    model: Any, layers: list[Any], width: int, make: Callable[..., NeutralBlock], placement: str
) -> None:
    """A block of this width beside each FFN."""
    if placement not in PLACEMENTS:
        raise ExtendError(f"no placement {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    size, count = int(model.config.get_text_config().hidden_size), len(layers)
    for layer in layers:
        block = make(size, width, count, _activation(model, layer.mlp))
        block.to(next(layer.parameters()).device)
        norm = post_norm(layer) if placement == "after_norm" else None
        layer.mlp = ExtendedFFN(layer.mlp, block, after_norm=norm is not None)
        if norm:
            setattr(layer, norm, ExtendedNorm(getattr(layer, norm), layer.mlp.take_residue))


def _add_lora(model: Any, layers: list[Any], rank: int) -> None:
    """LoRA of this rank on the FFNs' projections only, by peft (paper, 4.1)."""
    import peft
    from transformers.pytorch_utils import Conv1D

    ffns = [plain_ffn(layer.mlp) for layer in layers]
    linear = {id(module) for ffn in ffns for module in ffn.modules() if isinstance(module, nn.Linear | Conv1D)}
    targets = [name for name, module in model.named_modules() if id(module) in linear]
    transposed = any(isinstance(module, Conv1D) for module in ffns[0].modules())
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets, fan_in_fan_out=transposed
    )
    peft.inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def merge_lora(model: Any) -> None:
    """Add LoRA's products to the weights they adapt, in fp32, and leave the plain modules."""
    if not any(hasattr(module, "lora_A") for module in model.modules()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted: list[tuple[str, Any]] = [x for x in model.named_modules() if isinstance(x[1], BaseTunerLayer)]
    for name, module in adapted:
        linear = module.get_base_layer()
        dtype = linear.weight.dtype
        module.float()
        linear.weight += module.get_delta_weight("default")
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, linear.to(dtype))


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trainable weights by name, each once (tied ones under their first name)."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def load_trainable(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy `state` into the trainable weights. Raises ExtendError unless names and shapes are the same.

    Of the types of numbers only those that weights are trained and kept in are taken.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = own.keys() ^ state.keys()
    wrong |= {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    wrong |= {name for name, weight in state.items() if weight.dtype not in FLOATS}
    if wrong:
        raise ExtendError(
            f"{len(wrong)} weights do not fit the model, such as {min(wrong)}; "
            "were they trained with other options or for another backbone?"
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])
