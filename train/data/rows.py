"""Packed rows of tokens, mapped from disk, and the mixture: which of them an optimizer step trains on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.common.errors import StageError
from train.runs.options import Run, Training


@dataclass(frozen=True)
class Rows:
    """A file of packed rows. `batches` holds views of the mapped file: (tokens_NT1, bytes_N, document_N)."""

    path: str
    metadata: dict[str, Any]
    batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    starts: np.ndarray
    paths: list[str]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def row_tokens(self) -> int:
        """T: tokens of a row that are predicted; a row holds T + 1."""
        return int(self.metadata["row_tokens"])

    def tokens(self, indices: np.ndarray) -> np.ndarray:
        """The rows' tokens_NT1 (int64), in the order of `indices`."""
        return self._take(indices, 0).reshape(len(indices), self.row_tokens + 1).astype(np.int64)

    def bytes(self, indices: np.ndarray) -> np.ndarray:
        """UTF-8 bytes of the text that each row predicts."""
        return self._take(indices, 1)

    def documents(self, indices: np.ndarray) -> np.ndarray:
        """The document in which each row begins."""
        return self._take(indices, 2)

    def named_documents(self, indices: np.ndarray) -> str:
        """For messages: the documents in which these rows begin, and the files that those are numbered in."""
        found: dict[str, set[int]] = {}
        batch = np.searchsorted(self.starts, indices, side="right") - 1
        for b, document in zip(batch, self.documents(indices), strict=True):
            found.setdefault(self.paths[b], set()).add(int(document))
        return " and ".join(f"{sorted(documents)} of {path}" for path, documents in sorted(found.items()))

    def _take(self, indices: np.ndarray, column: int) -> np.ndarray:
        batch = np.searchsorted(self.starts, indices, side="right") - 1
        parts = [self.batches[b][column][i - self.starts[b]] for b, i in zip(batch, indices, strict=True)]
        return np.array(parts)

    def digest(self) -> str:
        """A hash of the metadata and of rows spread over the file: whether two files hold the same rows."""
        some = np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64))
        content = json.dumps(self.metadata, sort_keys=True).encode() + self.tokens(some).tobytes()
        return hashlib.sha256(content).hexdigest()[:16]


def open_rows(path: str) -> Rows:
    """Map a rows file: Arrow IPC (file or stream, uncompressed), columns `tokens`, `bytes`, `document`.

    Raises StageError where the file is missing, holds no rows, or is something else.
    """
    if not Path(path).is_file():
        raise StageError(f"{path}: no such rows file; make it with `python -m train tokenize`")
    try:
        source = pa.memory_map(path)
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()
        metadata = json.loads((table.schema.metadata or {})[b"rows"])
        batches = [_views(batch, metadata["row_tokens"] + 1) for batch in table.to_batches() if len(batch)]
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise StageError(f"{path}: not a file of packed rows ({error}); make it again") from None
    if not batches:
        raise StageError(f"{path}: no rows in it; the domain has too little text for even one row")
    starts = np.cumsum([0, *(len(documents) for _, _, documents in batches)])
    return Rows(path, metadata, batches, starts, [path] * len(batches))


def join_rows(files: list[Rows]) -> Rows:
    """Several domains as one, for a mixture to draw from: each is repeated whole to about the largest's size.

    Whole repeats of mapped rows cost nothing; shares are equal to a third.
    """
    largest = max(map(len, files))
    repeated = [(rows, round(largest / len(rows))) for rows in files]
    batches = [batch for rows, times in repeated for _ in range(times) for batch in rows.batches]
    paths = [path for rows, times in repeated for _ in range(times) for path in rows.paths]
    starts = np.cumsum([0, *(len(documents) for _, _, documents in batches)])
    return Rows(", ".join(rows.path for rows in files), files[0].metadata, batches, starts, paths)


def _views(batch: pa.RecordBatch, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = batch.column("tokens").flatten().to_numpy(zero_copy_only=True)
    numbers = [batch.column(name).to_numpy(zero_copy_only=True) for name in ("bytes", "document")]
    return tokens.reshape(-1, width), numbers[0], numbers[1]


# The mixture --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """Rows of one optimizer step on one rank: from which domain, and which row there."""

    is_old: np.ndarray
    index: np.ndarray


def old_rate(options: Training) -> Fraction:
    """p, exactly as it is written in the config: 0.1 is one tenth. Pretraining has no old domain."""
    return Fraction(str(options.old_rate)) if isinstance(options, Run) else Fraction(0)


def old_rows_before(k: int, rate: Fraction) -> int:
    """How many of the global rows 0 … k-1 are of the old domain."""
    return k * rate.numerator // rate.denominator


def mixture(step: int, options: Training, n_old: int, n_new: int, rank: int = 0, world: int = 1) -> Draw:
    """The rows of optimizer step `step` (from 0) for `rank`, of domains with n_old and n_new rows.

    METHOD, Mixture: row k is of the old domain iff floor((k+1) p) > floor(k p), and ranks take k % world.
    A pure function of its arguments: to resume is to know the step. Raises StageError where a domain that
    must be drawn from is empty.
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
