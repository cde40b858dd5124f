"""Export: a folder that transformers loads without this toolkit.

What can be is folded into a plain model: LoRA into the weights it adapts, blocks without a gate into a wider
FFN (the same sums in another order). Blocks with a gate cannot be: their model comes with its code. Without it
nothing loads the folder as another model: it has a `model_type` of its own, and the backbone's weights in it keep
their names, so that no class would draw them at random.

Shapes: N samples, D width of the model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import modeling_neutral
from models.adapter import SavedExtension
from models.block import NeutralBlock
from models.extend import ExtendedFFN, decoder_layers, merge_lora, plain_ffn, plain_name
from models.foreign import as_data
from models.modeling_neutral import as_saved, post_norm
from models.saving import saving

# An export's code, and the entries of its config that lead there.
EXPORTED = "modeling_neutral.py"
AUTO_MAP = {
    "AutoConfig": "modeling_neutral.ExtendedConfig",
    "AutoModel": "modeling_neutral.ExtendedModel",
    "AutoModelForCausalLM": "modeling_neutral.ExtendedForCausalLM",
}


@dataclass(frozen=True)
class Card:
    """What the model card says besides the sizes. `measures`: bits per byte by domain, before and after.

    `backbone`: its hub id, where it has a revision; else what it is called.
    """

    name: str
    backbone: str
    revision: str | None
    extensions: list[SavedExtension]
    measures: dict[str, tuple[float, float]]


def export(model: Any, tokenizer: Any, folder: str | Path, card: Card) -> bool:
    """Write an extended model (models.adapter.attach) to an empty folder; the model itself is changed.

    Returns whether it is a plain one, that needs no code of its own. Raises ValueError where the config or the
    tokenizer of the backbone are none that transformers saves.
    """
    merge_lora(model)
    plain = fold(model)
    about = None if plain else describe_blocks(model)
    blocks = len(about["blocks"]) if about else 0
    state = {plain_name(name, blocks) if blocks else name: weight for name, weight in model.state_dict().items()}
    with as_data("it cannot be saved"), saving(folder):
        # Names as they are in memory: the renaming to a hub's older names is undone for native classes alone.
        model.save_pretrained(folder, state_dict=state, save_original_format=plain)
        tokenizer.save_pretrained(folder)
    if about:
        (Path(folder) / EXPORTED).write_text(_code_for(model), encoding="utf-8")
        path = Path(folder) / "config.json"
        config = as_saved(json.loads(path.read_text(encoding="utf-8")), type(model.config), about)
        config |= {"architectures": [modeling_neutral.ExtendedForCausalLM.__name__], "auto_map": AUTO_MAP}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (Path(folder) / "README.md").write_text(_card(card, plain), encoding="utf-8")
    return plain


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
    for extended in zip(*map(_extended_ffns, layers), strict=True):
        block = extended[0].block
        norms = [post_norm(layer) for layer, one in zip(layers, extended, strict=True) if one.after_norm]
        blocks.append(
            {
                "width": block.up_proj.out_features,
                "gate": block.gate_name,
                "bias": block.gate is not None and block.gate.bias is not None,
                "norm": norms[0] if norms else None,
            }
        )
    return {"layers": path, "blocks": blocks}


def _extended_ffns(layer: Any) -> list[ExtendedFFN]:
    """The FFNs extended by a block each, in the order in which the blocks were added."""
    extended: list[ExtendedFFN] = []
    ffn = layer.mlp
    while isinstance(ffn, ExtendedFFN):
        extended.insert(0, ffn)
        ffn = ffn.ffn
    return extended


# Folding ------------------------------------------------------------------------------------------


@torch.no_grad()
def fold(model: Any) -> bool:
    """Turn blocks without a gate into more width of the FFNs, in place. Returns whether none is left.

    Exact but for the order of the sums. All blocks or none are folded: where one has a gate, is added behind
    a norm, or stands beside an FFN that is not gated as it is, the model stays as it is.
    """
    layers = decoder_layers(model)
    config = model.config.get_text_config()
    if not _extended_ffns(layers[0]):
        return True
    if not all(_folds(layer, config) for layer in layers):
        return False
    for layer in layers:
        ffn: Any = plain_ffn(layer.mlp)
        for extended in _extended_ffns(layer):
            _widen(ffn, extended.block)
        layer.mlp = ffn
    config.intermediate_size = layers[0].mlp.down_proj.in_features
    return True


def _folds(layer: Any, config: Any) -> bool:
    if any(one.block.gate is not None or one.after_norm for one in _extended_ffns(layer)):
        return False
    ffn: Any = plain_ffn(layer.mlp)
    linear = {name for name, module in ffn.named_children() if isinstance(module, nn.Linear)}
    if linear != {"gate_proj", "up_proj", "down_proj"} or not callable(getattr(ffn, "act_fn", None)):
        return False
    x_ND = torch.linspace(-2, 2, 4 * ffn.gate_proj.in_features).view(4, -1).to(ffn.gate_proj.weight)
    as_a_block_ND = ffn.down_proj(ffn.act_fn(ffn.gate_proj(x_ND)) * ffn.up_proj(x_ND))
    same = torch.equal(ffn(x_ND), as_a_block_ND)
    return same and getattr(config, "intermediate_size", None) == ffn.down_proj.in_features


def _widen(ffn: Any, block: NeutralBlock) -> None:
    """A block without a gate as more width of the FFN (docs/method.md, Block).

    act(gate x) * up x is computed for each unit of the width by itself, and down_proj sums over all of them.
    """
    dtype = ffn.down_proj.weight.dtype
    width = block.up_proj.out_features
    for name in ("gate_proj", "up_proj"):
        linear = getattr(ffn, name)
        linear.weight = _joined(linear.weight, getattr(block, name).weight.to(dtype), 0)
        if linear.bias is not None:
            linear.bias = _joined(linear.bias, linear.bias.new_zeros(width), 0)
        linear.out_features += width
    ffn.down_proj.weight = _joined(ffn.down_proj.weight, block.down_proj.weight.to(dtype), 1)
    ffn.down_proj.in_features += width
    ffn.intermediate_size = ffn.down_proj.in_features


def _joined(one: Tensor, other: Tensor, dimension: int) -> nn.Parameter:
    return nn.Parameter(torch.cat([one, other], dimension), requires_grad=False)


# The card -----------------------------------------------------------------------------------------


def _card(card: Card, plain: bool) -> str:
    languages = list(dict.fromkeys(language for one in card.extensions for language in _languages(one)))
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": card.backbone} if card.revision else {}),
        **({"language": languages} if languages else {}),
        "tags": ["neutral-residues"],
    }
    header = "\n".join(f"{key}: {_yaml(value)}" for key, value in front.items())
    trust = "" if plain else ", trust_remote_code=True"
    backbone = _code(card.backbone) + (f" (revision {_code(card.revision)})" if card.revision else "")
    code = (
        "It is a plain model of its architecture, and needs no code of its own."
        if plain
        else f"It needs the code in `{EXPORTED}`, which comes with it and imports torch and transformers alone."
    )
    added = "\n".join(_row(number, one) for number, one in enumerate(card.extensions, 1))
    return f"""---
{header}
---

# {_text(card.name)}

{backbone}, extended to another language as in *Neutral Residues: Revisiting Adapters for Model
Extension* (Signe Talla, Jégou, Grave). {code}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto"{trust})
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"{trust})
```

| # | method | gate | extra weights | from | to | learning rate | steps | tokens |
|---:|---|---|---:|---|---|---:|---:|---:|
{added}
{_measures(card.measures)}
The license of the backbone and the terms of the training text apply.
"""


def _text(value: Any) -> str:
    """A value as words of one line of Markdown, whatever it says.

    >>> _text("a | <b>\\n[c](d)")
    'a \\\\| \\\\<b\\\\> \\\\[c\\\\](d)'
    """
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", _line(value))


def _code(value: Any) -> str:
    """A value as a span of code of one line, between more backticks than it has.

    >>> _code("a`b"), _code("a")
    ('``a`b``', '`a`')
    """
    line = _line(value)
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def _line(value: Any) -> str:
    """Without line breaks, control characters and halves of characters."""
    return "".join(c for c in " ".join(str(value).split()) if unicodedata.category(c) not in ("Cc", "Cs"))


def _yaml(value: Any) -> str:
    """Text, or a list of texts, in YAML: in quotes, so that the language `no` is none of its truth values."""
    import yaml

    text = [_line(item) for item in value] if isinstance(value, list) else _line(value)
    style: Any = {"default_style": '"', "default_flow_style": True, "allow_unicode": True, "width": 2**31}
    return str(yaml.safe_dump(text, **style)).strip()


def _languages(extension: SavedExtension) -> list[str]:
    """The languages of the text that it was trained on: the old ones, and last the new one."""
    languages = extension.about.get("languages") or {}
    return [*languages.get("old", []), *([languages["new"]] if "new" in languages else [])]


def _row(number: int, extension: SavedExtension) -> str:
    training = extension.about.get("training", {})
    options, method = training.get("options", {}), extension.extend_options["method"]
    *old, new = _languages(extension) or ["?"]
    gate = extension.extend_options["gate"] if method == "neutral" else ""
    share = f"{training['true_fraction']:.1%}" if training.get("true_fraction") else ""
    cells = [number, method, gate, share, ", ".join(old), new]
    cells += [options.get("learning_rate", ""), options.get("steps", ""), f"{training.get('tokens', 0):,}"]
    return f"| {' | '.join(map(_text, cells))} |"


def _measures(measures: dict[str, tuple[float, float]]) -> str:
    if not measures:
        return ""
    rows = "\n".join(
        f"| {_text(name)} | {before:.3f} | {after:.3f} | {after - before:+.3f} |"
        for name, (before, after) in measures.items()
    )
    return f"""
Bits per byte of held-out documents, lower is better:

| domain | backbone | this model | change |
|---|---:|---:|---:|
{rows}
"""
