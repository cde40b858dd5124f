"""The card of an exported model: a README.md for the hub."""

from __future__ import annotations

from dataclasses import dataclass

from models.adapter import SavedExtension
from models.export import EXPORTED
from pipeline.common.markdown import code, escaped, front_matter, one_line, table_row


@dataclass(frozen=True)
class Card:
    """What the model card says besides the sizes. `measures`: bits per byte by domain, before and after.

    `backbone`: its hub id, where it has a revision; else what it is called. `why`: of models.native.Twin.
    """

    name: str
    backbone: str
    revision: str | None
    extensions: list[SavedExtension]
    measures: dict[str, tuple[float, float]]
    why: str
    has_code: bool


def model_card(card: Card) -> str:
    """The card, in Markdown; whatever its names say, they are text in it."""
    languages = list(dict.fromkeys(language for one in card.extensions for language in _languages(one)))
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": one_line(card.backbone)} if card.revision else {}),
        **({"language": list(map(one_line, languages))} if languages else {}),
        "tags": ["neutral-residues"],
    }
    trust = ", trust_remote_code=True" if card.has_code else ""
    backbone = code(card.backbone) + (f" (revision {code(card.revision)})" if card.revision else "")
    kind = (
        f"It needs the code in `{EXPORTED}`, which comes with it and imports torch and transformers alone"
        if card.has_code
        else "It is a model of a class that transformers has, and needs no code of its own"
    )
    added = "\n".join(_row(number, one) for number, one in enumerate(card.extensions, 1))
    return f"""{front_matter(front)}
# {escaped(card.name)}

{backbone}, extended to another language as in *Neutral Residues: Revisiting Adapters for Model
Extension* (Signe Talla, Jégou, Grave). {kind} ({escaped(card.why)}).

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
    return table_row(cells)


def _measures(measures: dict[str, tuple[float, float]]) -> str:
    if not measures:
        return ""
    rows = "\n".join(
        table_row([name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"])
        for name, (before, after) in measures.items()
    )
    return f"""
Bits per byte of held-out documents, lower is better:

| domain | backbone | this model | change |
|---|---:|---:|---:|
{rows}
"""
