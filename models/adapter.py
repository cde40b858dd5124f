"""Extensions without their backbone: kept in a small folder, and attached to the backbone again.

The folder holds `adapter.safetensors` (bf16, `0.NAME` of the first extension, `1.NAME` of the second, …) and
`adapter.json`: the backbone, and for each extension how it is made, its languages and how it was trained. One LoRA
alone is there a second time, as peft keeps it. No file names a place of the machine it was made on.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.backbone import COMPUTE, load_backbone, unique_parameters, weights_digest
from models.block import GATES, INITS
from models.extend import (
    METHODS,
    PLACEMENTS,
    ExtendError,
    Extension,
    extend,
    load_trainable,
    merge_lora,
    weights_per_width,
)
from models.foreign import as_data
from models.saving import saving

FORMAT = 1
DESCRIPTION = "adapter.json"
MOST = 10  # times the backbone's weights that an extension may add


class AdapterError(ValueError):
    """A folder that is no adapter, or one that does not fit its backbone; the message says why."""


@dataclass(frozen=True)
class SavedExtension:
    """All that it takes to extend a backbone again: the arguments of extend(), and the weights that were trained.

    Among the arguments is the width that was built: of the fraction, extend() may build another one today.
    models.extend.Extension is what extend() then returns. about: languages {old, new} and training (options,
    tokens, versions, …), as plain JSON data, for whoever reads the folder.
    """

    extend_options: dict[str, Any]
    weights: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def languages(self) -> list[str]:
        """The languages of the text that it was trained on: the old ones, and last the new one."""
        languages = self.about.get("languages") or {}
        return [*languages.get("old", []), *([languages["new"]] if "new" in languages else [])]


def attach(model: Any, saved: list[SavedExtension], dtype: torch.dtype = COMPUTE) -> list[Extension]:
    """Extend the model in place by each of `saved` in turn; it is then in `dtype`, frozen, ready for inference.

    Raises ExtendError where weights do not fit.
    """
    extensions: list[Extension] = []
    for one in saved:
        merge_lora(model)
        _check_amount(model, one)
        extensions.append(extend(model, **one.extend_options))
        load_trainable(model, one.weights)
        _round(model, dtype)
    _round(model, dtype)
    model.requires_grad_(False).eval()
    return extensions


def _check_amount(model: Any, one: SavedExtension) -> None:
    """Raises ExtendError where the width asks for more weights than there are: they would be made first."""
    method, width = one.extend_options["method"], one.extend_options.get("width", 0)
    held = sum(weight.numel() for weight in one.weights.values())
    asked = 0 if method == "finetune" else width * weights_per_width(model, method)
    if asked > held:
        raise ExtendError(f"its width of {width:,} asks for {asked:,} weights, and it has {held:,}")


def _round(model: Any, dtype: torch.dtype) -> None:
    """Weights to `dtype`, but not the buffers: rotary frequencies in bf16 would be wrong at far positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def describe_backbone(model: Any) -> dict[str, Any]:
    """What an adapter's backbone is recognised by: sizes and a digest of the weights, as JSON data."""
    config = model.config.get_text_config()
    return {
        "architecture": type(model).__name__,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "vocabulary": len(model.get_input_embeddings().weight),
        "parameters": unique_parameters(model),
        "digest": weights_digest(model),
    }


def save_adapter(folder: str | Path, named: dict[str, Any], backbone: Any, saved: list[SavedExtension]) -> None:
    """Write the folder. `backbone` is the model in bf16; it is extended in place.

    named: what the backbone is called (`name`), and the `source` and `revision` it can be had from; None: nowhere.
    """
    about = named | describe_backbone(backbone)
    extensions = attach(backbone, saved)
    entries = [
        {
            "how": {key: value for key, value in one.extend_options.items() if key != "width"},
            "width": extension.width,
            "extra_parameters": extension.extra_parameters,
            "true_fraction": extension.fraction,
            **one.about,
        }
        for one, extension in zip(saved, extensions, strict=True)
    ]
    tensors = {
        f"{number}.{name}": weight.to(COMPUTE)
        for number, one in enumerate(saved)
        for name, weight in one.weights.items()
    }
    with saving(folder):
        save_file(tensors, Path(folder) / "adapter.safetensors", metadata={"format": "pt"})
        if is_plain_lora(saved):
            _save_for_peft(folder, named, backbone, saved[0].weights)
    text = json.dumps({"format": FORMAT, "backbone": about, "additions": entries}, indent=1, ensure_ascii=False)
    (Path(folder) / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def is_plain_lora(saved: list[SavedExtension]) -> bool:
    """Whether peft can hold all of it: one LoRA, on the backbone itself."""
    return [one.extend_options["method"] for one in saved] == ["lora"]


def _save_for_peft(folder: str | Path, named: dict[str, Any], model: Any, weights: dict[str, Tensor]) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft does, of the LoRA that `model` has."""
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    config = model.peft_config["default"]
    config.target_modules = short_names(adapted, [name for name, _ in model.named_modules()])
    config.base_model_name_or_path, config.revision = named["source"] or "", named["revision"]
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.save_pretrained(folder)
    tensors = {f"base_model.model.{name.replace('.default.', '.')}": x.to(COMPUTE) for name, x in weights.items()}
    save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})


def short_names(chosen: set[str], names: list[str]) -> list[str]:
    """The ends of the names of some modules, as short as they can be without being ends of others.

    >>> short_names({"h.0.mlp.c_fc", "h.0.mlp.c_proj"}, ["h.0.mlp.c_fc", "h.0.mlp.c_proj", "h.0.attn.c_proj"])
    ['mlp.c_fc', 'mlp.c_proj']
    """
    for length in range(1, max(name.count(".") for name in chosen) + 1):
        ends = {".".join(name.split(".")[-length:]) for name in chosen}
        if {name for name in names if any(f".{name}".endswith(f".{end}") for end in ends)} == chosen:
            return sorted(ends)
    return sorted(chosen)


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder) / DESCRIPTION).exists()


def read_adapter(folder: str | Path) -> tuple[dict[str, Any], list[SavedExtension]]:
    """The backbone's description, and what was added to it. Raises AdapterError where the folder is no adapter."""
    try:
        with as_data("not a saved adapter, or a damaged one"):
            content = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, but this program reads {FORMAT}; update it")
            weights: dict[str, dict[str, Tensor]] = defaultdict(dict)
            for key, tensor in load_file(Path(folder) / "adapter.safetensors").items():
                number, _, name = key.partition(".")
                weights[number][name] = tensor
            saved = []
            for place, entry in enumerate(content["additions"]):
                how, width = _checked_recipe(entry["how"]), entry["width"]
                if type(width) is not int:
                    raise ValueError("width is no whole number")
                about = {key: value for key, value in entry.items() if key not in ("how", "width")}
                saved.append(SavedExtension(how | {"width": width}, weights[str(place)], about))
            backbone = content["backbone"]
            backbone.setdefault("name", backbone["source"])
            if not (isinstance(backbone["name"], str) and isinstance(backbone["digest"], str)):
                raise ValueError("its backbone has no name")
            if not all(isinstance(backbone[key], str | None) for key in ("source", "revision")):
                raise ValueError("its backbone has no name")
            return backbone, saved
    except OSError as error:
        raise AdapterError(f"{folder}: not a saved adapter ({error})") from None
    except ValueError as error:
        raise AdapterError(f"{folder}: {error}") from None


def _checked_recipe(how: dict[str, Any]) -> dict[str, Any]:
    """The recipe as it is. Raises ValueError unless it is what extend() takes, by name, type and range."""
    known = {
        "method": how["method"] in METHODS,
        "fraction": isinstance(how.get("fraction", 1), int | float) and 0 < how.get("fraction", 1) <= MOST,
        "gate": how.get("gate", "elu") in GATES,
        "gate_bias": isinstance(how.get("gate_bias", True), bool),
        "init": how.get("init", "he") in INITS,
        "placement": how.get("placement", PLACEMENTS[0]) in PLACEMENTS,
        "seed": isinstance(how.get("seed", 0), int) and 0 <= how.get("seed", 0) < 2**63,
    }
    wrong = [key for key, right in known.items() if not right] + sorted(how.keys() - known.keys())
    if wrong:
        raise ValueError(f"how.{wrong[0]} is none that this program knows; update it")
    return how


def load_adapter(
    folder: str | Path, backbone: str | None = None, attention: str = "eager", dtype: torch.dtype = COMPUTE
) -> Any:
    """The backbone with the adapter of `folder` attached, in `dtype`, ready for inference, on the CPU.

    backbone: where it lies; None: the hub id that the adapter names. Raises AdapterError where that is another
    model than the adapter was trained on, and says in what they differ.
    """
    about, saved = read_adapter(folder)
    source, revision = backbone_place(folder, about, backbone)
    try:
        model = load_backbone(source, revision, attention=attention)
    except (OSError, ValueError) as error:
        fetch = "" if backbone else f", fetched by `python -m train backbone --source {source}`"
        raise AdapterError(
            f"{folder}: its backbone {source} cannot be loaded ({error}); give its folder{fetch}: --backbone"
        ) from None
    check_backbone(folder, about, model, source)
    try:
        attach(model, saved, dtype)
    except ExtendError as error:
        raise AdapterError(f"{folder}: does not fit {source}: {error}") from None
    return model


def backbone_place(folder: str | Path, about: dict[str, Any], backbone: str | None) -> tuple[str, str | None]:
    """Where an adapter's backbone is, and its revision: `backbone`, or else what the adapter names.

    Raises AdapterError where it names nothing that others have.
    """
    if backbone is not None:
        return backbone, None
    if about["source"] is None:
        raise AdapterError(
            f"{folder}: its backbone is {about['name']}, a folder or file of another machine, with weights of the "
            f"digest {about['digest']}; give its folder on this one: --backbone"
        )
    return about["source"], about["revision"]


def check_backbone(folder: str | Path, about: dict[str, Any], model: Any, source: str) -> None:
    """Raises AdapterError unless the model is the backbone that `about` describes."""
    own = describe_backbone(model)
    differences = [f"{key} is {own[key]}, not {about.get(key)}" for key in own if own[key] != about.get(key)]
    if differences:
        if len(differences) == 1:  # the digest alone: same architecture, other weights
            differences = ["its weights are others, though the architecture is the same"]
        raise AdapterError(
            f"{folder}: trained on {about['name']}, and {source} is another model: {', '.join(differences)}; "
            "give its own backbone with --backbone"
        )
