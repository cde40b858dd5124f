"""What a training is given, checked before it begins."""

from __future__ import annotations

import os
from typing import Any

import torch

from pipeline.common.errors import StageError
from train.data.rows import Rows, check_length, open_rows, paths_by_name
from train.data.tokens import check_tokenizer
from train.runs.load import pick_device
from train.runs.options import Training


def prepare(options: Training) -> torch.device:
    """Set the number of threads, an option since sums depend on it, and return the device.

    Raises StageError where the processes cannot share the rows of a step equally.
    """
    torch.set_num_threads(options.threads)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if options.batch_rows % ranks:
        raise StageError(
            f"batch_rows: {options.batch_rows} is not a multiple of the {ranks} processes; make it one"
        )
    return pick_device(options.device)


def open_validation(named: list[str]) -> dict[str, Rows]:
    """Rows files by name, from 'name=path'. Raises StageError on anything else."""
    return {name: open_rows(path) for name, path in paths_by_name("--validation", named).items()}


def check_rows(files: list[Rows], options: Training) -> None:
    """Raises StageError unless all rows have the length and the tokenizer of the first, and what options need."""
    if options.mask_documents and "separator" not in files[0].metadata:
        raise StageError(
            f"{files[0].path}: made before mask_documents was there; run `python -m train tokenize` again"
        )
    # Rows that do not say what they begin with begin with nothing.
    keys = ["row_tokens", "vocabulary", "tokenizer_sha256", "beginning", *["separator"] * options.mask_documents]
    for key in keys:
        for one in files[1:]:
            first, other = (rows.metadata.get(key, []) for rows in (files[0], one))
            if first != other:
                raise StageError(
                    f"{one.path}: {key} is {other}, but {first} in {files[0].path}; tokenize both alike"
                )


def check_fit(rows: Rows, model: Any, backbone: str) -> None:
    """Raises StageError if the rows have another tokenizer than the backbone, or too many tokens for it."""
    entries = len(model.get_input_embeddings().weight)
    if rows.metadata["vocabulary"] > entries:
        raise StageError(
            f"{rows.path}: its tokenizer has {rows.metadata['vocabulary']} entries, but {backbone} has only "
            f"{entries} embeddings; tokenize with the backbone's own tokenizer"
        )
    check_tokenizer(rows, backbone)
    check_length(rows, model, backbone)
