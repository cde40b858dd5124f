"""Two ways to pass a run on: what it added, as a small folder, or the whole model, as transformers loads it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from models.adapter import attach, is_adapter, is_plain_lora, save_adapter
from models.backbone import COMPUTE, attention_on, compute_dtype, load_tokenizer
from models.export import export
from models.extend import ExtendError
from models.native import Twin
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder
from train.data.tokens import open_tokenizer
from train.runs.card import Card, model_card
from train.runs.load import check_trained_on, load_for, pick_device, saved_extensions
from train.runs.options import Export
from train.runs.origin import SETTLED_ON, public_origin
from train.runs.record import is_run, read_run
from train.runs.results import read_evaluation

log = logging.getLogger(__name__)


def save(run: str, backbone: str | None, output: str) -> None:
    """Write what the run, and the runs it goes on from, added to the backbone: a folder for models/adapter.py.

    Raises StageError where the run is not finished or does not fit the backbone.
    """
    added = saved_extensions(run)
    path = backbone or backbone_of(run)
    model, named = load_for(path, pick_device("cpu"), dtype=COMPUTE), public_origin(path)
    check_trained_on(run, model, path)
    with atomic_folder(output) as folder:
        try:
            save_adapter(folder, named, model, added)
        except ExtendError as error:
            raise StageError(f"{run}: does not fit the backbone {path}: {error}") from None
    size = sum(file.stat().st_size for file in Path(output).iterdir())
    log.info("%s: %.1f MB, beside the backbone %s", output, size / 1e6, named["name"])
    if is_plain_lora(added):
        log.info("%s: also in peft's own format", output)
    elif any(one.extend_options["method"] == "lora" for one in added):
        log.info("%s: not in peft's format, which has one LoRA on a plain backbone; `export` folds it", output)


def export_run(options: Export, run: str, backbone: str | None, evaluations: list[str], output: str) -> None:
    """Write the extended model as a folder that transformers loads, with a model card.

    evaluations: the backbone's and the run's (evaluate), for the card. Raises StageError as `save` does.
    """
    measures = _measures(evaluations)
    with atomic_folder(output) as folder:
        twin, card = write_model(options, run, backbone, folder, measures)
        (folder / "README.md").write_text(model_card(card), encoding="utf-8")
    log.info("%s: %s (%s)", output, type(twin.model).__name__, twin.why)
    trust = ", trust_remote_code=True" if twin.has_code else ""
    log.info("%s: load it with AutoModelForCausalLM.from_pretrained(%r%s)", output, output, trust)


def write_model(
    options: Export, run: str, backbone: str | None, folder: Path, measures: dict[str, tuple[float, float]]
) -> tuple[Twin, Card]:
    """Write the extended model of a run to an empty folder; returns it, and what its card says."""
    added = saved_extensions(run)
    path = backbone or backbone_of(run)
    model, named = load_for(path, pick_device("cpu"), dtype=COMPUTE), public_origin(path)
    check_trained_on(run, model, path)
    try:
        attach(model, added)
    except ExtendError as error:
        raise StageError(f"{run}: does not fit the backbone {path}: {error}") from None
    try:
        twin = export(model, open_tokenizer(path), folder, options.code)
    except ValueError as error:
        raise StageError(f"{path}: {error}") from None
    source = named["name"].partition(SETTLED_ON)[0]
    name = f"{Path(source).name}-{Path(run).name}"
    return twin, Card(name, named["name"], named["revision"], added, measures, twin.why, twin.has_code)


def backbone_of(run: str) -> str:
    """Path or hub id of the backbone that the run was trained on. Raises StageError where it is there no more."""
    record = read_run(run)
    path = record.backbone
    if not Path(path).exists() and (path.startswith((".", "/")) or path.count("/") > 1):
        known = f"its weights have the digest {record.backbone_digest}"
        raise StageError(f"{run}: its backbone {path} is not there any more; give its place ({known}): --backbone")
    return path


def _measures(evaluations: list[str]) -> dict[str, tuple[float, float]]:
    if not evaluations:
        return {}
    if len(evaluations) != 2:
        raise StageError(f"--evaluations: expected two, the backbone's and the run's, found {len(evaluations)}")
    before, after = (read_evaluation(path).domains for path in evaluations)
    return {name: (before[name].bpb, after[name].bpb) for name in after if name in before}


def open_model(path: str, device: Any, backbone: str | None = None) -> tuple[Any, Any]:
    """The model and the tokenizer of `path`: the folder of a run, of a saved adapter or of a model, or a hub id.

    backbone: where that of a run or an adapter lies; None: where they say. Raises StageError where it is no model.
    """
    from models.adapter import AdapterError, backbone_place, load_adapter, read_adapter
    from train.runs.load import load_run

    try:
        if is_run(path):
            backbone = backbone or backbone_of(path)
            return load_run(backbone, path, device), load_tokenizer(backbone)
        if is_adapter(path):
            place = backbone_place(path, read_adapter(path)[0], backbone)
            model = load_adapter(path, backbone, attention_on(device), compute_dtype(device)).to(device)
            return model, load_tokenizer(*place)
        return load_run(path, None, device), load_tokenizer(path)
    except AdapterError as error:
        raise StageError(str(error)) from None
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: {error}") from None
