"""A backbone from the hub or a folder, checked once and kept as the workflow's own copy."""

from __future__ import annotations

from models.backbone import load_backbone, load_tokenizer, save_backbone
from models.extend import ExtendError, decoder_layers
from pipeline.cli import StageError
from pipeline.files import atomic_folder


def fetch_backbone(source: str, revision: str | None, output: str) -> None:
    """Load a decoder and its tokenizer, see that it can be extended, and save both in the folder `output`.

    Raises StageError where there is no such model, it is no decoder, or its layers are not understood.
    """
    try:
        model, tokenizer = load_backbone(source, revision), load_tokenizer(source, revision)
        decoder_layers(model)
    except (OSError, ValueError, ExtendError) as error:
        raise StageError(f"backbone.source {source}: {error}") from None
    with atomic_folder(output) as folder:
        save_backbone(model, tokenizer, folder)
