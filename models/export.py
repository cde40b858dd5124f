"""Export: a folder that transformers loads without this toolkit.

A model of a class that servers have, wherever one has its arithmetic (models/native.py). Where none has, or by
choice, the model comes with its code. Without that nothing loads the folder as another model: it has a
`model_type` of its own, and the backbone's weights in it keep their names, so that no class would draw them at
random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models import modeling_neutral
from models.extend import decoder_layers, merge_lora, plain_name
from models.foreign import as_data
from models.modeling_neutral import as_saved, post_norm
from models.native import NoTwinError, Twin, extended_ffns, fold, native
from models.saving import saving

# An export's code, and the entries of its config that lead there.
EXPORTED = "modeling_neutral.py"
AUTO_MAP = {
    "AutoConfig": "modeling_neutral.ExtendedConfig",
    "AutoModel": "modeling_neutral.ExtendedModel",
    "AutoModelForCausalLM": "modeling_neutral.ExtendedForCausalLM",
}


def export(model: Any, tokenizer: Any, folder: str | Path, code: str = "") -> Twin:
    """Write an extended model (models.adapter.attach) to an empty folder; the model itself is changed.

    code: why it shall have its own code, also where a class of transformers has its arithmetic. Returns what was
    written. Raises ValueError where the config or the tokenizer of the backbone are none that transformers saves.
    """
    twin = _twin(model, code)
    about = describe_blocks(model) if twin.has_code else None
    blocks = len(about["blocks"]) if about else 0
    state = {plain_name(name, blocks): weight for name, weight in model.state_dict().items()} if about else None
    with as_data("it cannot be saved"), saving(folder):
        # Names as they are in memory: the renaming to a hub's older names is undone for native classes alone.
        twin.model.save_pretrained(folder, state_dict=state, save_original_format=not about)
        tokenizer.save_pretrained(folder)
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if about:
        (Path(folder) / EXPORTED).write_text(_code_for(model), encoding="utf-8")
        config = as_saved(config, type(model.config), about)
        config |= {"architectures": [modeling_neutral.ExtendedForCausalLM.__name__], "auto_map": AUTO_MAP}
    else:
        config |= _rope_of_before(config.get("rope_parameters"))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return twin


def _twin(model: Any, code: str) -> Twin:
    merge_lora(model)
    if code and not fold(model):
        return Twin(model, f"its own code, {code}", has_code=True)
    try:
        return native(model)
    except NoTwinError as error:
        return Twin(model, f"its own code: {error}", has_code=True)


def _rope_of_before(rope: Any) -> dict[str, Any]:
    """The rotary embedding as configs had it before transformers 5; other readers would take 10,000 for its base.

    >>> _rope_of_before({"rope_type": "default", "rope_theta": 5e5})
    {'rope_theta': 500000.0, 'rope_scaling': None}
    """
    if not isinstance(rope, dict) or "rope_theta" not in rope:  # none, or one for each kind of layer
        return {}
    before = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    scaling = {key: value for key, value in rope.items() if key not in before}
    return before | {"rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling}


def _code_for(model: Any) -> str:
    """The code of an export: modeling_neutral.py on the classes of its decoder."""
    code = Path(modeling_neutral.__file__).read_text(encoding="utf-8")
    classes = {"LlamaConfig": model.config, "LlamaForCausalLM": model, "LlamaModel": model.base_model}
    for known, instance in classes.items():
        code = code.replace(
            f"from transformers import {known} ", f"from transformers import {type(instance).__name__} "
        )
    return code


def describe_blocks(model: Any) -> dict[str, Any]:
    """What models/modeling_neutral.py needs to build the model, as JSON: where the layers are, and their blocks.

    Blocks of several extensions are in the order in which they were added.
    """
    layers = decoder_layers(model)
    path = next(name for name, module in model.named_modules() if module is layers[0]).rpartition(".")[0]
    blocks = []
    for extended in zip(*map(extended_ffns, layers), strict=True):
        block = extended[0].block
        norms = [post_norm(layer) for layer, one in zip(layers, extended, strict=True) if one.after_norm]
        blocks.append(
            {
                "width": block.up_proj.out_features,
                "gate": block.gate_name,
                "bias": block.gate is not None and block.gate.bias is not None,
                "norm": norms[0] if norms else None,
                "threshold": block.threshold,
            }
        )
    return {"layers": path, "blocks": blocks}
