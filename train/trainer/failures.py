"""Messages of trainings that fail: which documents are to blame, and which option to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.common.errors import StageError
from train.data.rows import Rows
from train.runs.options import Training
from train.trainer import checkpoint
from train.trainer.mixture import mixture


def exploded(
    options: Training, old: Rows | None, new: Rows, step: int, record: dict[str, float], checkpoints: str
) -> str:
    """A message with the step, the documents that its rows begin in, and the last good checkpoint."""
    draw = mixture(step, options, len(old) if old else 0, len(new))
    parts = [new.named_documents(draw.index[~draw.is_old])]
    if old is not None:
        parts.append(old.named_documents(draw.index[draw.is_old]))
    text = f"documents {' and '.join(filter(None, parts))}"
    good = checkpoint.newest(checkpoints) or "none yet"
    return (
        f"step {step + 1}: the loss is {record['loss']} and the norm of its gradient {record['grad_norm']}, on "
        f"{text}; lower learning_rate, or look at these documents (last good checkpoint: {good})"
    )


@contextmanager
def memory_advice(options: Training, device: torch.device, step: int) -> Iterator[None]:
    """Where memory runs out inside it, raises StageError that says which option to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch has a class of its own on a GPU only
        ran_out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not ran_out:
            raise
        knobs = []
        if options.micro_batch_rows > 1:
            knobs.append(f"lower micro_batch_rows (now {options.micro_batch_rows}; it changes no result)")
        if not options.activation_checkpointing:
            knobs.append("set activation_checkpointing to true")
        if not options.shard:
            knobs.append("set gpus to several and shard to true")
        knobs.append("make rows with a smaller tokens.row_tokens, or take a machine with more memory")
        raise StageError(
            f"out of memory on {device} in a training that began at step {step}: {'; or '.join(knobs)}. "
            f"Started again it goes on from the last checkpoint ({error})"
        ) from None
