"""Loading models: a backbone, and what a run added to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.adapter import AdapterError, SavedExtension, attach, check_backbone, is_adapter, read_adapter
from models.backbone import attention_on, compute_dtype, load_backbone, weights_digest
from models.extend import ExtendError, Extension, extend
from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.common.language_codes import iso_code
from pipeline.workflow.layout import WEIGHTS
from train.runs.options import Run
from train.runs.record import Languages, RunRecord, read_chain, record_data

log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """The device of an option: auto is the GPU, if there is one. Raises StageError if cuda is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise StageError("device: cuda was asked for, but torch finds no GPU; set device to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def measuring_device(name: str) -> torch.device:
    """pick_device() for texts of many lengths; turns off cuDNN's attention, which plans anew for each length."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    return pick_device(name)


def load_for(backbone: str, device: torch.device, stays: bool = False, dtype: torch.dtype | None = None) -> Any:
    """The backbone in `dtype` (None: what `device` computes in), on `device`.

    stays: leave it on the CPU, to be sharded later. Raises StageError where transformers loads no decoder there.
    """
    log.info("loading %s", backbone)
    try:
        model = load_backbone(backbone, dtype=dtype or compute_dtype(device), attention=attention_on(device))
        return model if stays else model.to(device)
    except (OSError, ValueError) as error:
        raise StageError(f"backbone {backbone}: cannot be loaded as a decoder: {error}") from None


def extend_for(model: Any, options: Run) -> Extension:
    """Extend the model in place as a run says. Raises StageError where its layers are not understood."""
    try:
        return extend(model, **extend_options(options))
    except ExtendError as error:
        raise StageError(str(error)) from None


def extend_options(options: Run) -> dict[str, Any]:
    """The arguments of models.extend.extend() that a run's options give."""
    names = ("method", "fraction", "gate", "gate_bias", "init", "placement", "seed")
    return {name: getattr(options, name) for name in names}


def load_run(backbone: str, run_folder: str | None, device: torch.device, stays: bool = False) -> Any:
    """The backbone, extended by the run or adapter in `run_folder` (None: as it is), all in compute_dtype(device).

    Every method is so measured with the same arithmetic, as it would be deployed. What the run goes on from
    is added before it. `stays` as in load_for(). Raises StageError where the run was not trained from this
    backbone or its folder is not a run's.
    """
    model = load_for(backbone, device, stays)
    if run_folder is not None:
        check_trained_on(run_folder, model, backbone)
    try:
        attach(model, saved_extensions(run_folder) if run_folder is not None else [], compute_dtype(device))
    except ExtendError as error:
        raise StageError(f"{run_folder}: does not fit the backbone {backbone}: {error}") from None
    return model


def check_trained_on(run_folder: str | Path, model: Any, backbone: str) -> None:
    """Raises StageError where the model is another backbone than the run was trained on.

    Other weights may lie at its path by now, or lie there for another copy of the results. So for a saved adapter.
    """
    if is_adapter(run_folder):
        with _adapter_errors():
            check_backbone(run_folder, read_adapter(run_folder)[0], model, backbone)
        return
    for folder, record in read_chain(run_folder):
        if record.backbone_digest not in (None, weights_digest(model)):
            why = f"trained on other weights than those of {backbone}"
            raise StageError(f"{folder}: {why}; give the place of its own backbone, or train it again")


def saved_extensions(run_folder: str | Path) -> list[SavedExtension]:
    """What the run added to the backbone, behind what was added by the runs that it goes on from.

    Of a saved adapter, all that it holds. Raises StageError where a folder is not a finished run's, or a run goes
    on from itself.
    """
    if is_adapter(run_folder):
        with _adapter_errors():
            return read_adapter(run_folder)[1]
    return [_saved_extension(folder, record) for folder, record in read_chain(run_folder)]


@contextmanager
def _adapter_errors() -> Iterator[None]:
    try:
        yield
    except AdapterError as error:
        raise StageError(str(error)) from None


def _saved_extension(folder: Path, record: RunRecord) -> SavedExtension:
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{folder}: not a finished run ({error}); train it with `extend`") from None
    # The card of an export has ISO codes, as the hub wants them.
    languages = Languages(old=list(map(iso_code, record.languages.old)), new=iso_code(record.languages.new))
    about = {"languages": to_data(languages), "training": record_data(record)}
    for name in ("languages", "backbone", "backbone_digest"):
        del about["training"][name]
    options = about["training"]["options"]
    options["base"] = options["base"] and Path(options["base"]).name  # a place of this machine
    how = extend_options(record.options) | {"width": record.width}
    return SavedExtension(how, state, about)
