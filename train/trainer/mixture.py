"""The mixture: which rows of the old and of the new domain an optimizer step trains on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from pipeline.common.config import as_written
from pipeline.common.errors import StageError
from train.data.rows import Rows
from train.runs.options import Run, Training


@dataclass(frozen=True)
class Draw:
    """Rows of one optimizer step on one rank: whether each is of the old domain, and its index in its domain."""

    is_old: np.ndarray
    index: np.ndarray


def old_rate(options: Training) -> Fraction:
    """p, exactly as it is written in the config: 0.1 is one tenth. Pretraining has no old domain."""
    return as_written(options.old_rate) if isinstance(options, Run) else Fraction(0)


def old_rows_before(k: int, rate: Fraction) -> int:
    """How many of a training's first k rows, 0 to k - 1, are of the old domain: floor(k p).

    With p = 1/4 every fourth row is, numbers 3 and 7 the first of them:

    >>> [old_rows_before(k, Fraction(1, 4)) for k in range(9)]
    [0, 0, 0, 0, 1, 1, 1, 1, 2]
    """
    return k * rate.numerator // rate.denominator


def mixture(step: int, options: Training, n_old: int, n_new: int, rank: int = 0, world: int = 1) -> Draw:
    """The rows of optimizer step `step` (from 0) for `rank`, of domains with n_old and n_new rows.

    docs/method.md, Mixture (paper, section 3, "Mixed distribution training"): row k is of the old domain if and
    only if floor((k+1) p) > floor(k p), and rank r takes the rows with k mod world = r. A pure function of its
    arguments: to resume is to know the step. Raises StageError where a domain that must be drawn from is empty.
    """
    rate = old_rate(options)
    if (n_old == 0 and rate > 0) or (n_new == 0 and rate < 1):
        raise StageError(f"old_rate {float(rate)}: a domain that it draws from has no rows; give it some")
    first = step * options.batch_rows
    is_old, index = [], []
    for k in range(first, first + options.batch_rows):
        if k % world != rank:
            continue
        before = old_rows_before(k, rate)
        old = old_rows_before(k + 1, rate) > before
        drawn, size = (before, n_old) if old else (k - before, n_new)
        order = _permutation(options.seed, int(old), drawn // size, size)
        is_old.append(old)
        index.append(order[drawn % size])
    return Draw(np.array(is_old, dtype=bool), np.array(index, dtype=np.int64))


def is_measured(step: int, options: Training, every: int) -> bool:
    """Whether gates are measured in this step: of so many the first with old rows, and the first with new ones.

    A large batch has both in each step. Steps at a fixed distance might have no old row ever: with p = 0.1 and 8
    rows those of every fifth step begin at the same place among ten, and old is the last of these.
    """
    first, rate = step - step % every, old_rate(options)
    bounds = [s * options.batch_rows for s in range(first, first + every + 1)]
    olds = [old_rows_before(end, rate) - old_rows_before(start, rate) for start, end in pairwise(bounds)]
    has_old = next((i for i, old in enumerate(olds) if old), None)
    has_new = next((i for i, old in enumerate(olds) if old < options.batch_rows), None)
    return step - first in (has_old, has_new)


@dataclass(frozen=True)
class Batch:
    """One optimizer step on one rank: its draw and tokens_BT1; `old_rows` and `rows` count all ranks'."""

    draw: Draw
    tokens_BT1: np.ndarray
    old_rows: int
    rows: int


def read_batch(step: int, options: Training, old: Rows | None, new: Rows, rank: int = 0, world: int = 1) -> Batch:
    """The rows of optimizer step `step` for `rank`, in the order drawn."""
    draw = mixture(step, options, len(old) if old else 0, len(new), rank, world)
    tokens_BT1 = np.empty((len(draw.index), new.row_tokens + 1), np.int64)
    tokens_BT1[~draw.is_old] = new.tokens(draw.index[~draw.is_old])
    if old is not None:
        tokens_BT1[draw.is_old] = old.tokens(draw.index[draw.is_old])
    rate, first = old_rate(options), step * options.batch_rows
    old_rows = old_rows_before(first + options.batch_rows, rate) - old_rows_before(first, rate)
    return Batch(draw, tokens_BT1, old_rows, options.batch_rows)


def batches(
    first: int, options: Training, old: Rows | None, new: Rows, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The batches of steps `first` to the last, each read by a thread while the step before it is computed."""
    with ThreadPoolExecutor(1, "rows") as pool:
        ahead = pool.submit(read_batch, first, options, old, new, rank, world)
        for step in range(first, options.steps):
            batch = ahead.result()
            if step + 1 < options.steps:
                ahead = pool.submit(read_batch, step + 1, options, old, new, rank, world)
            yield batch


# A step may touch two epochs of each of two domains.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, domain: int, epoch: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, domain, epoch])).permutation(size)
