"""Packed rows of tokens, mapped from disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.common.errors import StageError


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
        """For messages: numbers of the documents in which these rows begin, and the rows files they belong to."""
        documents_of: dict[str, set[int]] = {}
        batch = np.searchsorted(self.starts, indices, side="right") - 1
        for b, document in zip(batch, self.documents(indices), strict=True):
            documents_of.setdefault(self.paths[b], set()).add(int(document))
        return " and ".join(f"{sorted(documents)} of {path}" for path, documents in sorted(documents_of.items()))

    def _take(self, indices: np.ndarray, column: int) -> np.ndarray:
        batch = np.searchsorted(self.starts, indices, side="right") - 1
        parts = [self.batches[b][column][i - self.starts[b]] for b, i in zip(batch, indices, strict=True)]
        return np.array(parts)

    def digest(self) -> str:
        """A hash of the metadata and of 64 rows spread over the file; two files with equal rows have the same."""
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
