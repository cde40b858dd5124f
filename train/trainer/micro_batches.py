"""The parts of a step's rows that pass through the model at once, and all that they need, on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.attention import attends_by_documents, document_bounds
from train.trainer.mixture import Batch

if TYPE_CHECKING:
    from train.trainer.loop import TrainingJob


@dataclass(frozen=True)
class MicroBatch:
    """Rows tokens_BT1, and old_B11, 1 where a row is of the old domain, else 0.

    weight_BT of each predicted token in the loss is None where all are 1; position_BT and bounds_111S are None
    where documents are not kept apart, and the second also where the model attends by a mask.
    """

    tokens_BT1: Tensor
    old_B11: Tensor
    weight_BT: Tensor | None
    position_BT: Tensor | None
    bounds_111S: Tensor | None


def scored_tokens(job: TrainingJob, batch: Batch) -> np.ndarray | None:
    """is_scored_BT of each predicted token: not beginnings of documents; None where all are."""
    if not job.new.unlearned_ids:
        return None
    return np.isin(batch.tokens_BT1[:, 1:], job.new.unlearned_ids, invert=True)


def micro_batches(job: TrainingJob, batch: Batch, is_scored_BT: np.ndarray | None) -> Iterator[MicroBatch]:
    """The micro-batches of a rank's rows; is_scored_BT: what scored_tokens() gives.

    Micro-batch i of n has rows i, i + n, and so on, so that n on one rank are one each on n ranks.
    """
    count = math.ceil(len(batch.tokens_BT1) / job.options.micro_batch_rows)
    old_B11 = batch.draw.is_old[:, None, None].astype(np.float32)
    for first in range(count):
        part = slice(first, None, count)
        weight_BT = None if is_scored_BT is None else is_scored_BT[part].astype(np.float32)
        tokens_BT1 = to_device(batch.tokens_BT1[part], job.device)
        yield MicroBatch(
            tokens_BT1,
            to_device(old_B11[part], job.device),
            None if weight_BT is None else to_device(weight_BT, job.device),
            positions(job, tokens_BT1),
            bounds(job, batch.tokens_BT1[part]),
        )


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device. The transfer to a GPU runs while the GPU computes: pinned memory, non-blocking."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def positions(job: TrainingJob, tokens_BT1: Tensor) -> Tensor | None:
    """With mask_documents, each token's position_BT in its document, else None.

    Where positions begin anew, transformers lets no token attend to those before.
    """
    if not job.options.mask_documents:
        return None
    tokens_BT = tokens_BT1[:, :-1]
    place_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
    starts_BT = torch.where(tokens_BT == job.new.metadata["separator"], place_BT, 0)
    return place_BT - starts_BT.cummax(1).values


def bounds(job: TrainingJob, tokens_BT1: np.ndarray) -> Tensor | None:
    """With mask_documents, document_bounds() as bounds_111S for a model that attends by them, else None.

    Made on the CPU: a GPU would have to be waited for, since how many there are decides a shape.
    """
    if not (job.options.mask_documents and attends_by_documents(job.model)):
        return None
    bounds_111S = to_device(document_bounds(tokens_BT1[:, :-1] == job.new.metadata["separator"]), job.device)
    if job.options.compile:
        torch._dynamo.maybe_mark_dynamic(bounds_111S, 3)  # one graph, however many documents there are
    return bounds_111S
