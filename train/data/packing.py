"""A domain's stream of tokens as rows that a loader can map into memory.

Each token is predicted exactly once. With a tokenizer that puts a beginning before texts, every row begins with
one, its own where a document begins there; with another, a row shares its first token with the row before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.common.errors import StageError
from pipeline.common.files import atomic

ROWS_PER_BATCH = 8192


def row_places(owners: np.ndarray, row_tokens: int, lead: int, filled: bool) -> Iterator[int]:
    """The place in the stream at which each row of row_tokens + 1 begins.

    owners: document of each token. lead: tokens of a beginning, which each document has as its first and each row
    gets as its first; 0 where there is none. The first `lead` places of a row that goes on with a document are
    thus the row's before, without their tokens. filled: the last row may end behind the stream.

    >>> list(row_places(np.array([0] * 9), 4, 0, filled=False))
    [0, 4]
    >>> list(row_places(np.array([0] * 4 + [1] * 8), 3, 1, filled=False))
    [0, 4, 7]
    """
    place = 0
    while place + (max(lead, 1) if filled else row_tokens) < len(owners):
        yield place
        end = place + row_tokens + 1
        place = end - max(lead, 1)
        if lead and end < len(owners):
            # No further back than to the beginning of the document that goes on at `end`.
            place += int(np.argmax(owners[place : end + 1] == owners[end]))


def _count_predicted(
    first: np.ndarray, row_tokens: int, lead: int, sizes: np.ndarray, owners: np.ndarray
) -> dict[str, int]:
    """How many tokens and bytes, and of how many documents, the rows predict that begin at `first`."""
    change = np.zeros(len(owners) + 1, np.int64)
    np.add.at(change, first + max(lead, 1), 1)
    np.add.at(change, np.minimum(first + row_tokens + 1, len(owners)), -1)
    inside = np.cumsum(change)[:-1] > 0
    documents = np.unique(owners[inside & (sizes > 0)])
    return {"tokens": int(inside.sum()), "bytes": int(sizes[inside].sum()), "documents": len(documents)}


def write_rows(
    output: str,
    ids: np.ndarray,
    sizes: np.ndarray,
    owners: np.ndarray,
    row_tokens: int,
    fill: int | None,
    about: dict[str, Any],
    most: int | None = None,
) -> int:
    """Write a domain's stream of tokens as rows of T + 1 = row_tokens + 1; returns how many tokens are in them.

    ids, sizes, owners: id, UTF-8 bytes and document of each token. fill: the token that fills up the last row;
    None leaves an unfinished row out. most: of more rows so many are written, evenly spread, which the metadata
    then count. about: the metadata, of which `beginning` is what each row begins with.
    Raises StageError where there is not one row.
    """
    beginning = np.array(about.get("beginning", []), ids.dtype)
    lead = len(beginning)
    if lead >= row_tokens:
        raise StageError(f"{output}: no room behind the {lead} tokens that begin a row; raise row_tokens")
    first = np.fromiter(row_places(owners, row_tokens, lead, fill is not None), np.int64)
    if not len(first):
        cure = "give more text, or lower tokens.row_tokens"
        raise StageError(f"{output}: {len(ids)} tokens do not fill one row of {row_tokens} + 1; {cure}")
    about = about | {"tokens": min(len(ids), int(first[-1]) + row_tokens + 1), "rows": len(first)}
    if most and most < len(first):
        first = first[np.arange(most) * len(first) // most]
        about |= _count_predicted(first, row_tokens, lead, sizes, owners) | {"rows": most}
    schema = pa.schema(
        [
            ("tokens", pa.list_(pa.from_numpy_dtype(ids.dtype), row_tokens + 1)),
            ("bytes", pa.int32()),
            ("document", pa.int64()),
        ],
        metadata={"rows": json.dumps(about, sort_keys=True)},
    )
    with atomic(output) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(first), ROWS_PER_BATCH):
            first_N = first[start : start + ROWS_PER_BATCH]
            place_NT1 = first_N[:, None] + np.arange(row_tokens + 1)
            inside_NT1 = place_NT1 < len(ids)
            place_NT1 = np.minimum(place_NT1, len(ids) - 1)
            tokens_NT1 = np.where(inside_NT1, ids[place_NT1], fill or 0).astype(ids.dtype)
            tokens_NT1[:, :lead] = beginning
            bytes_NT1 = np.where(inside_NT1, sizes[place_NT1], 0)
            writer.write_batch(
                pa.record_batch(
                    [
                        pa.FixedSizeListArray.from_arrays(tokens_NT1.ravel(), row_tokens + 1),
                        bytes_NT1[:, max(lead, 1) :].sum(1).astype(np.int32),
                        owners[first_N],
                    ],
                    schema=schema,
                )
            )
    return int(about["tokens"])
