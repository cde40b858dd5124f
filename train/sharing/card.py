"""The card of a model: a README.md for the hub that says how to run it, what it measures and how it was made."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.adapter import SavedExtension
from models.export import EXPORTED
from pipeline.common.config import ConfigError, default_of, read, to_data
from pipeline.common.errors import StageError
from pipeline.common.markdown import code, escaped, front_matter, one_line, table_row
from train.evaluation.intervals import FEWEST, Estimate, estimate, paired, paired_kl
from train.report.words import a_token, plain_with_ends, took, with_ends
from train.runs.export import Extended
from train.runs.options import Run
from train.runs.record import Costs
from train.runs.results import Change, Measure, read_evaluation

# Of LoRA, those that vLLM takes for --max-lora-rank (its LoRAConfig).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
PAPER = "*Neutral Residues: Revisiting Adapters for Model Extension* (Signe Talla, Jégou, Grave)"


@dataclass(frozen=True)
class Measured:
    """Bits per byte of a domain, of the backbone and of the model; and KL(backbone || model), if it is known."""

    domain: str
    documents: int | None
    before: Estimate
    after: Estimate
    change: Estimate
    kl: Estimate | None


@dataclass(frozen=True)
class Corpus:
    """Text that the model was trained on: (language, split, documents, bytes) of it, and its licence."""

    rows: list[tuple[str, str, int, int]]
    license: str | None


@dataclass(frozen=True)
class Card:
    """What a card says. why, has_code: of models.native.Twin; why is None of an adapter in peft's format.

    repo: where the hub has it; None: nowhere, and the card names the folder alone.
    """

    extended: Extended
    why: str | None
    has_code: bool
    measures: list[Measured]
    corpora: list[Corpus] = field(default_factory=list)
    repo: str | None = None
    license: str | None = None


def read_measures(evaluations: list[str]) -> list[Measured]:
    """What the evaluations of the backbone and of the run say of the domains of both.

    Raises StageError unless they are these two, or none.
    """
    if not evaluations:
        return []
    read = [read_evaluation(path) for path in evaluations]
    if [one.run is None for one in read] != [True, False]:
        found = ", ".join(one.run or "the backbone" for one in read)
        raise StageError(f"--evaluations: expected two, the backbone's and the run's, found those of {found}")
    before, after = read
    return [
        _measured(domain, before.domains[domain], measure, after.change.get(domain))
        for domain, measure in after.domains.items()
        if domain in before.domains
    ]


def _measured(domain: str, before: Measure, after: Measure, change: Change | None) -> Measured:
    bpb = paired({"before": before, "after": after})
    return Measured(
        domain,
        after.documents.count if after.documents else None,
        estimate(bpb["before"]),
        estimate(bpb["after"]),
        estimate(bpb["after"] - bpb["before"]),
        estimate(paired_kl({"after": change})["after"]) if change else None,
    )


def model_card(card: Card, folder: Path) -> str:
    """The card of the model in a folder, in Markdown; whatever its names say, they are text in it."""
    extended = card.extended
    name, revision = extended.named["name"], extended.named["revision"]
    languages = list(dict.fromkeys(language for one in extended.added for language in one.languages))
    new = list(dict.fromkeys(language for one in extended.added for language in one.languages[-1:]))
    front = {
        **({"license": one_line(card.license)} if card.license else {}),
        **({"language": list(map(one_line, languages))} if languages else {}),
        "library_name": "transformers" if card.why else "peft",
        "pipeline_tag": "text-generation",
        **({"base_model": one_line(name)} if revision else {}),
        **({"base_model_relation": "finetune" if card.why else "adapter"} if revision else {}),
        "tags": ["neutral-residues"],
    }
    backbone = code(name) + (f" (revision {code(revision)})" if revision else "")
    parts = [
        f"# {escaped(_name(card))}",
        f"{backbone}, extended to {escaped(' and '.join(new) or 'another language')} as in {PAPER}. {_kind(card)}",
        f"## How to run it\n\n{_how_to_run(card, folder)}",
        *([_measures(card.measures)] if card.measures else []),
        f"## Data\n\n{_data(card)}",
        f"## How it was made\n\n{_how_it_was_made(extended.added, folder)}",
        f"## Licence\n\n{_licence(card.license)}",
    ]
    return front_matter(front) + "\n" + "\n\n".join(parts) + "\n"


def _name(card: Card) -> str:
    return card.repo.partition("/")[2] if card.repo else card.extended.name


def _kind(card: Card) -> str:
    if card.why is None:
        return "It is a LoRA in peft's format, which is loaded beside that backbone."
    if card.has_code:
        what = f"It needs the code in `{EXPORTED}`, which comes with it and imports torch and transformers alone"
    else:
        what = "It is a model of a class that transformers has, and needs no code of its own"
    return f"{what} ({escaped(card.why)})."


# How to run it ------------------------------------------------------------------------------------


def _how_to_run(card: Card, folder: Path) -> str:
    place = card.repo or folder.name
    if card.why is None:
        return _how_to_run_lora(card, place)
    trust, flag = (", trust_remote_code=True", " --trust-remote-code") if card.has_code else ("", "")
    lines = [f"- transformers, as a server: {code(f'transformers serve{flag} {shlex.quote(place)}')}"]
    if card.has_code:
        lines.append("- vLLM, llama.cpp and Ollama do not run it, since its code is for transformers.")
    else:
        lines += [f"- vLLM: {code(f'vllm serve {shlex.quote(place)}')}", *_how_to_run_gguf(card, folder)]
    program = f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({place!r}, dtype="auto"{trust})
tokenizer = AutoTokenizer.from_pretrained({place!r}{trust})
```"""
    return "\n".join([program, "", *lines])


def _how_to_run_gguf(card: Card, folder: Path) -> list[str]:
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return ["- llama.cpp and Ollama run GGUF files, and here is none."]
    # Its answers are nearly those of the whole weights, in half the memory.
    best = next((path for path in files if path.stem.endswith("-Q8_0")), files[0])
    if card.repo:
        tagged = f"{card.repo}:{best.stem.rpartition('-')[2]}"  # the quantisation, which ends the name
        commands = {"llama.cpp": f"llama-server -hf {tagged}", "Ollama": f"ollama run hf.co/{tagged}"}
    else:
        name, place = shlex.quote(_name(card)), folder.name
        commands = {"llama.cpp": f"llama-server -m {shlex.quote(f'{place}/{best.name}')}"}
        if (folder / "Modelfile").exists():
            made = f"ollama create {name} -f {shlex.quote(f'{place}/Modelfile')}"
            commands["Ollama"] = f"{made} && ollama run {name}"
    sizes = ", ".join(f"{code(path.name)} ({path.stat().st_size / 1e6:,.1f} MB)" for path in files)
    return [*(f"- {tool}: {code(command)}" for tool, command in commands.items()), f"- GGUF files: {sizes}"]


def _how_to_run_lora(card: Card, place: str) -> str:
    named, rank = card.extended.named, card.extended.added[0].extend_options["width"]
    most = next((known for known in VLLM_RANKS if known >= rank), None)
    words = ["vllm", "serve", named["source"], "--revision", named["revision"], "--enable-lora"]
    words += ["--max-lora-rank", str(most), "--lora-modules", f"{_name(card)}={place}"]
    vllm = code(shlex.join(words)) if most else f"takes ranks up to {VLLM_RANKS[-1]}, and this one is {rank}."
    return f"""```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained({place!r}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({named["source"]!r}, revision={named["revision"]!r})
```

- vLLM: {vllm}
- llama.cpp and Ollama do not read peft's format. `model.merge_and_unload()` gives a plain model, to convert."""


# What is known of it ------------------------------------------------------------------------------


def _measures(measures: list[Measured]) -> str:
    far = any(one.kl for one in measures)
    rows = []
    for one in measures:
        cells = [one.domain, "" if one.documents is None else f"{one.documents:,}"]
        cells += [_with_ends(one.before), _with_ends(one.after), with_ends(one.change)]
        rows.append(table_row([*cells, *([plain_with_ends(one.kl) if one.kl else ""] if far else [])]))
    kl = "; KL divergence from the backbone, nats a token" if far else ""
    about = [f"Bits per byte of held-out documents, lower is better{kl}."]
    if any(one.change.low is not None for one in measures):
        about.append("In brackets: 95% intervals over documents; those of changes over pairs.")
    if any(one.change.low is None for one in measures):
        about.append(f"Without one it is not known how sure a number is, as of fewer than {FEWEST} documents.")
    columns = ["domain", "documents", "backbone", "this model", "change", *(["KL"] if far else [])]
    head = [table_row(columns), f"|---|{'---:|' * (len(columns) - 1)}"]
    return "\n".join(["## What it measures", "", *about, "", *head, *rows])


def _with_ends(value: Estimate) -> str:
    return f"{value.value:.3f}" if value.low is None else plain_with_ends(value)


def _data(card: Card) -> str:
    settled = card.extended.settled
    lines = [f"- The backbone settled on {one.tokens:,} tokens of {escaped(one.domain)}." for one in settled]
    for number, extension in enumerate(card.extended.added, 1):
        training, (*old, new) = extension.about.get("training", {}), extension.languages or ["?"]
        text = f"- Extension {number} read {training.get('tokens', 0):,} tokens"
        if rate := training.get("options", {}).get("old_rate"):
            text += f", {rate:.0%} of old text ({escaped(', '.join(old))}), replayed so that it stays, the rest"
        lines.append(f"{text} of new text ({escaped(new)}).")
    rows = [
        table_row([language, split, f"{documents:,}", f"{size / 1e6:,.1f}", corpus.license or "not said"])
        for corpus in card.corpora
        for language, split, documents, size in corpus.rows
    ]
    if rows:
        lines += ["", "The text was taken from:", "", "| language | split | documents | text, MB | licence |"]
        lines += ["|---|---|---:|---:|---|", *rows, ""]
        lines.append(
            "The text belongs to the sites and authors that it comes from; the licence is that of the selection."
        )
    return "\n".join(lines)


def _how_it_was_made(added: list[SavedExtension], folder: Path) -> str:
    lines = [
        "| # | method | gate | extra weights | from | to | learning rate | steps | tokens | training time |",
        "|---:|---|---|---:|---|---|---:|---:|---:|---:|",
        *(_row(number, one) for number, one in enumerate(added, 1)),
        "",
        *(_options(number, one) for number, one in enumerate(added, 1)),
    ]
    place = next((path for path in ("adapter/", "") if (folder / path / "adapter.json").exists()), None)
    if place is not None:
        lines.append(
            f"- `{place}adapter.json` has all options, and `{place}adapter.safetensors` what was added alone; "
            "`python -m train generate` of the toolkit loads both beside the backbone."
        )
    return "\n".join(lines)


def _row(number: int, extension: SavedExtension) -> str:
    training = extension.about.get("training", {})
    options, method = training.get("options", {}), extension.extend_options["method"]
    *old, new = extension.languages or ["?"]
    gate = extension.extend_options["gate"] if method == "neutral" else ""
    share = f"{training['true_fraction']:.1%}" if training.get("true_fraction") else ""
    cells = [number, method, gate, share, ", ".join(old), new]
    cells += [options.get("learning_rate", ""), options.get("steps", ""), f"{training.get('tokens', 0):,}"]
    return table_row([*cells, _training_time(training)])


def _training_time(training: dict[str, Any]) -> str:
    """As the report has it, where it is known."""
    names = {field.name for field in dataclasses.fields(Costs)}
    try:
        costs = read(Costs, {name: value for name, value in training.items() if name in names}, "training")
    except ConfigError:  # of an adapter that says less
        return ""
    return " · ".join(words for words in (took(costs.seconds), a_token(costs)) if words)


def _options(number: int, extension: SavedExtension) -> str:
    """The options that are not in the table and not as by default, and the versions."""
    training = extension.about.get("training", {})
    defaults = {field.name: to_data(default_of(field)) for field in dataclasses.fields(Run)}
    shown = {"method", "gate", "learning_rate", "steps"}
    changed = {
        name: value
        for name, value in training.get("options", {}).items()
        if name not in shown and value != defaults.get(name)
    }
    return (
        f"- Extension {number}: {_listed(changed) or 'no other option'}; all else as by default. "
        f"Trained with {_listed(training.get('versions', {})) or 'unknown versions'}."
    )


def _listed(entries: dict[str, Any]) -> str:
    shown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}
    return ", ".join(code(f"{name}: {value}") for name, value in shown.items())


def _licence(license: str | None) -> str:
    ours = f"What was added is under {code(license)}. " if license else ""
    return f"{ours}The licence of the backbone and the terms of the training text apply."
