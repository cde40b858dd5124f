"""Whether a config and weights belong together, and make a decoder: found out by trying, not by names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from models.refusals import Refused

if TYPE_CHECKING:
    from torch import Tensor

MOST_BUFFERS = 2**28  # numbers computed from a config, such as masks: far above what any decoder has
AGAIN = "download the model again, or take the one that it was made of"


def check_sizes(sketch: Any, weights: dict[str, Tensor]) -> None:
    """Raises ValueError where the model would take more memory than its files account for.

    A head may be missing, which check_used() names.
    """
    head = _own_head(sketch)
    described = sum(parameter.numel() for parameter in sketch.parameters())
    held = sum(tensor.numel() for tensor in weights.values())
    computed = sum(buffer.numel() for buffer in sketch.buffers())
    if described > held + (head.numel() if head is not None else 0):
        raise ValueError(f"config.json describes {described:,} weights, and there are {held:,}")
    if computed > MOST_BUFFERS:
        raise ValueError(f"config.json describes {computed:,} numbers beside the weights, more than any model has")


def _own_head(model: Any) -> Tensor | None:
    """The weight of a head that does not share the embeddings."""
    weight: Tensor | None = getattr(model.get_output_embeddings(), "weight", None)
    return None if weight is model.get_input_embeddings().weight else weight


def check_used(model: Any, missing: set[str], unused: dict[str, Tensor]) -> None:
    """Raises ValueError where a weight of the model is not there, or its layers leave one of theirs unused.

    unused: what in the files has no place in the model. Masks and frequencies of older versions may be among it,
    and layers that guess further tokens, which have more than a decoder layer has.
    """
    from torch.nn import ModuleList

    head = _own_head(model)
    if missing and missing == {name for name, weight in model.named_parameters() if weight is head}:
        raise Refused(
            f"the weights have no head ({min(missing)}): take a model that was saved with it, or, if it shares "
            "the embeddings, set tie_word_embeddings to true in config.json"
        )
    if missing:
        raise ValueError(
            f"{len(missing)} weights of a {type(model).__name__} are not there, such as {min(missing)}"
        )
    for path, layers in model.named_modules():
        if isinstance(layers, ModuleList):
            _check_layers(path, [{name for name, _ in layer.named_parameters()} for layer in layers], unused)


def _check_layers(path: str, own: list[set[str]], unused: dict[str, Tensor]) -> None:
    """check_used() for the list of layers at `path`, by the names of each one's weights."""
    spare: dict[int, set[str]] = {}
    for name, weight in unused.items():
        match = re.fullmatch(r"(.*?)\.(\d+)\.(.+)", name)
        # A file may leave out the first part of a path, such as `model.`.
        if not match or not f".{path}".endswith(f".{match[1]}"):
            continue
        number = int(match[2])
        if number >= len(own):
            spare.setdefault(number, set()).add(match[3])
        elif name.endswith((".weight", ".bias")) and weight.dim() in (1, 2):
            raise Refused(f"config.json describes a model without {name}, which the weights have; {AGAIN}")
    if more := [number for number, names in spare.items() if any(names <= one for one in own)]:
        raise Refused(f"config.json describes {len(own)} layers, and the weights have {max(more) + 1}; mend it")


def check_values(model: Any) -> None:
    """Raises ValueError where weights are no numbers."""
    import torch

    # 30 times as fast as isfinite(), and NaN where a weight is.
    ends = {
        name: torch.stack(torch.aminmax(weight)) for name, weight in model.named_parameters() if weight.numel()
    }
    wrong = [name for name, both in ends.items() if not both.isfinite().all()]
    if wrong:
        raise ValueError(f"{len(wrong)} weights hold NaN or infinity, such as {wrong[0]}; {AGAIN}")


def check_pass(model: Any) -> None:
    """Raises Refused where what the model makes of a token depends on the next, or text passes some layers over.

    The first is an encoder: the gradient of the first token's logits by the second one's embedding is not exactly
    zero. The second has layers for images alone (Mllama), whose blocks would learn nothing.
    """
    import torch

    seen: list[Tensor] = []
    many = [child for child in model.modules() if isinstance(child, torch.nn.ModuleList)]
    idle = {layer for layers in many for layer in layers if hasattr(layer, "mlp")}
    hooks = [layer.register_forward_pre_hook(lambda module, given: idle.discard(module)) for layer in idle]
    table = model.get_input_embeddings()
    hooks.append(table.register_forward_hook(lambda module, given, out_BTD: seen.append(out_BTD)))
    try:
        with torch.enable_grad():
            logits_BTV = model(input_ids=torch.tensor([[0, 1]], device=model.device)).logits
            (slope_BTD,) = torch.autograd.grad(logits_BTV[0, 0].float().sum(), seen[0])
    except Exception:  # some models compute on a GPU alone
        return
    finally:
        for hook in hooks:
            hook.remove()
    if slope_BTD[0, 1].abs().max() > 0:
        raise Refused(
            "config.json: each token sees those behind it, as in an encoder; take a decoder, whose tokens do not"
        )
    if idle:
        raise Refused(
            f"config.json: {len(idle)} of its layers are for images or sounds alone, and text passes them over; "
            "take a model of text alone"
        )
