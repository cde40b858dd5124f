"""Two ways to pass a run on: what it added, as a small folder, or the whole model, as transformers loads it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.adapter import SavedExtension, attach, is_adapter, is_plain_lora, save_adapter
from models.backbone import COMPUTE, attention_on, compute_dtype, load_tokenizer
from models.block import close_gates
from models.export import export
from models.extend import ExtendError
from models.native import Twin
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder
from train.data.tokens import open_tokenizer
from train.runs.load import check_trained_on, load_for, pick_device, saved_extensions
from train.runs.options import Export
from train.runs.origin import SETTLED_ON, Settled, origin, public_origin
from train.runs.record import is_run, read_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extended:
    """A run to pass on: its folder, where its backbone lies, and what it, and the runs it goes on from, added.

    named: what the backbone is called elsewhere (train.runs.origin.public_origin).
    """

    run: str
    backbone: str
    named: dict[str, Any]
    added: list[SavedExtension]

    @property
    def name(self) -> str:
        source = self.named["name"].partition(SETTLED_ON)[0]
        return f"{Path(source).name}-{Path(self.run).name}"

    @property
    def file_name(self) -> str:
        """The name in letters, digits and signs that no program reads as anything else."""
        return re.sub(r"[^\w.-]+", "-", self.name, flags=re.ASCII).strip(".-") or "model"

    @property
    def settled(self) -> list[Settled]:
        """What the backbone was settled on; one of the hub is as it came."""
        return origin(self.backbone).settled if Path(self.backbone).exists() else []


def read_extended(run: str, backbone: str | None) -> Extended:
    """What is known of a run without its model. Raises StageError where it is not finished, or has no backbone."""
    added = saved_extensions(run)
    path = backbone or backbone_of(run)
    return Extended(run, path, public_origin(path), added)


def save(run: str, backbone: str | None, output: str) -> None:
    """Write what the run, and the runs it goes on from, added to the backbone: a folder for models/adapter.py.

    Raises StageError where the run is not finished or does not fit the backbone.
    """
    extended = read_extended(run, backbone)
    with atomic_folder(output) as folder:
        write_adapter(extended, folder)
    size = sum(file.stat().st_size for file in Path(output).iterdir())
    log.info("%s: %.1f MB, beside the backbone %s", output, size / 1e6, extended.named["name"])
    if is_plain_lora(extended.added):
        log.info("%s: also in peft's own format", output)
    elif any(one.extend_options["method"] == "lora" for one in extended.added):
        log.info("%s: not in peft's format, which has one LoRA on a plain backbone; `export` folds it", output)


def write_adapter(extended: Extended, folder: Path) -> None:
    """Write what was added to an empty folder, for models/adapter.py. Raises StageError where it does not fit."""
    model = _load_backbone(extended)
    with _fitting(extended):
        save_adapter(folder, extended.named, model, extended.added)


def write_model(options: Export, extended: Extended, folder: Path, gate_threshold: float = 0.0) -> Twin:
    """Write the extended model to an empty folder, for transformers, and as GGUF files.

    gate_threshold: with one the model has its own code, for no server has such a thing. Raises StageError where it
    does not fit, or llama.cpp has nothing like it.
    """
    model, tokenizer = _load_backbone(extended), open_tokenizer(extended.backbone)
    with _fitting(extended):
        attach(model, extended.added)
    close_gates(model, gate_threshold)
    try:
        code = "as asked" if options.code else "for the threshold of its gates" if gate_threshold else ""
        twin = export(model, tokenizer, folder, code)
    except ValueError as error:
        raise StageError(f"{extended.backbone}: {error}") from None
    if options.gguf:
        if gate_threshold and twin.has_code:
            raise StageError("--gguf: llama.cpp has no threshold for gates; take out gate_threshold, or gguf")
        try:
            files = write_gguf_files(options.gguf, model, extended, folder)
        except ValueError as error:
            raise StageError(f"--gguf: {error}") from None
        # A model of plain text continues it; of a chat Ollama finds the form in the file.
        plain = "" if tokenizer.chat_template else "TEMPLATE {{ .Prompt }}\n"
        (folder / "Modelfile").write_text(f"FROM ./{files[0].name}\n{plain}", encoding="utf-8")
    return twin


def write_gguf_files(kinds: list[str], model: Any, extended: Extended, folder: Path) -> list[Path]:
    """A GGUF file of each kind, of the run's model (models.adapter.attach), which is changed.

    Raises ValueError where llama.cpp has no such model or tokenizer, or there is no quantiser.
    """
    from models.gguf_file import KINDS, write_gguf
    from models.gguf_quantise import quantise
    from models.native import native_for_gguf

    twin, tokenizer = native_for_gguf(model).model, open_tokenizer(extended.backbone)
    languages = dict.fromkeys(language for one in extended.added for language in one.languages)
    about = {"name": extended.name, "languages": list(languages), "base_model": extended.named["name"]}
    paths = {kind: folder / f"{extended.file_name}-{kind.upper()}.gguf" for kind in kinds}
    for kind, path in paths.items():
        log.info("writing %s", path.name)
        if kind in KINDS:
            write_gguf(twin, tokenizer, path, kind, about)
            continue
        whole = folder / "whole.gguf"
        write_gguf(twin, tokenizer, whole, "bf16", about)
        quantise(whole, path, kind)
        whole.unlink()
    return list(paths.values())


def _load_backbone(extended: Extended) -> Any:
    """In bf16, on the CPU. Raises StageError where it is not the one that the run was trained on."""
    model = load_for(extended.backbone, pick_device("cpu"), dtype=COMPUTE)
    check_trained_on(extended.run, model, extended.backbone)
    return model


@contextmanager
def _fitting(extended: Extended) -> Iterator[None]:
    try:
        yield
    except ExtendError as error:
        raise StageError(f"{extended.run}: does not fit the backbone {extended.backbone}: {error}") from None


def backbone_of(run: str) -> str:
    """Path or hub id of the backbone that the run was trained on. Raises StageError where it is there no more."""
    record = read_run(run)
    path = record.backbone
    if not Path(path).exists() and (path.startswith((".", "/")) or path.count("/") > 1):
        known = f"its weights have the digest {record.backbone_digest}"
        raise StageError(f"{run}: its backbone {path} is not there any more; give its place ({known}): --backbone")
    return path


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
