"""Packed rows of tokens, mapped from disk."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.common.arrow import map_table, read_metadata
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

    @property
    def unlearned_ids(self) -> list[int]:
        """Tokens that training does not score where they are predicted."""
        return list(self.metadata.get("unlearned_ids", []))

    def tokens(self, indices: np.ndarray) -> np.ndarray:
        """tokens_NT1 (int64) of rows, in the order of `indices`.

        Raises StageError where one is not in the vocabulary.
        """
        tokens_NT1 = self._take(indices, 0).reshape(len(indices), self.row_tokens + 1).astype(np.int64)
        if tokens_NT1.max(initial=0) >= self.metadata["vocabulary"]:
            raise StageError(
                f"{self.path}: token {tokens_NT1.max()} in a vocabulary of {self.metadata['vocabulary']} entries; "
                "make it again"
            )
        return tokens_NT1

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


def paths_by_name(flag: str, named: list[str]) -> dict[str, str]:
    """The paths of 'name=path' by name. Raises StageError on anything else, and where a name stands for two."""
    paths: dict[str, str] = {}
    for text in named:
        name, _, path = text.partition("=")
        if not (name and path):
            raise StageError(f"{flag} {text}: expected DOMAIN=PATH, such as fr=rows/fr/validation.arrow")
        if name in paths:
            raise StageError(f"{flag} {text}: {name} is {paths[name]} already; give it another name")
        paths[name] = path
    return paths


def open_rows(path: str) -> Rows:
    """Map a rows file: Arrow IPC (file or stream, uncompressed), columns `tokens`, `bytes`, `document`.

    Raises StageError where the file is missing, holds no rows, or is something else.
    """
    if not Path(path).is_file():
        raise StageError(f"{path}: no such rows file; make it with `python -m train tokenize`")
    try:
        metadata = read_metadata(path, "rows")
        _check_metadata(metadata)
        width = metadata["row_tokens"] + 1
        token = pa.uint16() if metadata["vocabulary"] <= 2**16 else pa.uint32()
        columns = [("tokens", pa.list_(token, width)), ("bytes", pa.int32()), ("document", pa.int64())]
        table = map_table(path, pa.schema(columns))
        batches = [_views(batch, width) for batch in table.to_batches() if len(batch)]
    except (ValueError, StageError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise StageError(f"{path}: not a file of packed rows ({reason}); make it again") from None
    if not batches:
        raise StageError(f"{path}: no rows in it; the domain has too little text for even one row")
    starts = np.cumsum([0, *(len(documents) for _, _, documents in batches)])
    return Rows(path, metadata, batches, starts, [path] * len(batches))


def check_length(rows: Rows, model: Any, backbone: str) -> None:
    """Raises StageError where the rows are longer than any text that the model takes.

    Where it computes positions, and only never saw so long a text, the log says so.
    """
    from models.positions import longest_text, stored_positions

    most = longest_text(model.config)
    if most is None or rows.row_tokens <= most:
        return
    longer = f"{rows.path}: rows of {rows.row_tokens} tokens, but {backbone} is made for {most}"
    if stored_positions(model) is not None:
        raise StageError(f"{longer} and has no positions for more; tokenize with row_tokens {most} or less")
    logging.warning("%s; what is behind that token may be predicted badly", longer)


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


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Raises ValueError for metadata of rows that are not as docs/formats.md has them."""
    names, numbers = ("tokenizer_sha256", "domain"), ("row_tokens", "vocabulary")
    wrong = [name for name in names if not isinstance(metadata.get(name), str)]
    wrong += [name for name in numbers if not _is_count(metadata.get(name)) or not metadata[name]]
    lists: dict[str, Any] = {"special_ids": None, "beginning": [], "unlearned_ids": []}
    for name, missing in lists.items():
        ids = metadata.get(name, missing)
        if not isinstance(ids, list) or not all(map(_is_count, ids)):
            wrong.append(name)
    if not _is_count(metadata.get("separator", 0)):
        wrong.append("separator")
    if "sites" in metadata and not _are_sites(metadata["sites"]):
        wrong.append("sites")
    if wrong:
        raise ValueError(f"metadata: wrong or missing {', '.join(wrong)}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _are_sites(sites: Any) -> bool:
    try:
        names, documents = sites["names"], base64.b64decode(sites["documents"])
        return bool(documents) and max(documents) < len(names) and all(isinstance(name, str) for name in names)
    except (TypeError, KeyError, ValueError):
        return False


def _views(batch: pa.RecordBatch, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if any(column.null_count for column in batch.columns):
        raise ValueError("a row has a null")
    tokens = batch.column("tokens").flatten().to_numpy(zero_copy_only=True)
    numbers = [batch.column(name).to_numpy(zero_copy_only=True) for name in ("bytes", "document")]
    return tokens.reshape(-1, width), numbers[0], numbers[1]
