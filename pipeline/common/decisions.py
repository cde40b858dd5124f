"""What became of each page in a stage, a row each: what ledgers are summed from, and `why` reads.

A stage writes its rows in the order in which it reads, so that nothing has to name a page again after `extract`:
the n-th page that one stage keeps is the n-th that comes into the next. A row with `documents` above 0 is a page
(or damage, which may have cost several); one with 0 is a part of the page before it, such as its paragraphs that
were dropped for another reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, write_batches

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

KEPT, DROPPED, FAILED = "kept", "dropped", "failed"
UNITS = ("documents", "paragraphs", "bytes")
WORDS = ("fate", "reason", "language", "file")
# The types of the columns in memory, by the codes of `array`; and what stands for null in them.
KINDS = dict.fromkeys(WORDS, "i") | dict.fromkeys(UNITS, "q") | {"score": "f", "place": "q", "url": "Q"}
NULLS = dict.fromkeys(WORDS, -1) | {"score": float("nan"), "place": -1, "url": 0}
NEEDED = ("fate", *UNITS)
ROWS_PER_BATCH = 2**16


class Decisions:
    """Rows in memory, some 60 bytes each."""

    def __init__(self) -> None:
        self.columns: dict[str, array[Any]] = {name: array(kind) for name, kind in KINDS.items()}
        self.words: dict[str, dict[str, int]] = {name: {} for name in WORDS}

    def add(self, fate: str, reason: str | None = None, url: str | None = None, **values: Any) -> None:
        """A row: counts by unit, and what is known of the page. Raises KeyError for a name that is no column."""
        row = {"fate": fate, "reason": reason, **values}
        if url is not None:
            row["url"] = url_hash(url)
        for name in row.keys() - KINDS.keys():
            raise KeyError(f"{name} is not a column; columns are {', '.join(KINDS)}")
        for name, column in self.columns.items():
            value = row.get(name)
            if value is None:
                value = NULLS.get(name, 0)
            elif name in WORDS:
                value = self._code(name, value)
            column.append(value)

    def add_many(self, verdicts: list[tuple[str, str | None]], which: np.ndarray, **columns: np.ndarray) -> None:
        """Rows that each have one of `verdicts`, (fate, reason): `which` is int[rows]; `columns` are numbers."""
        import numpy as np

        used, place = np.unique(which, return_inverse=True)
        rows: dict[str, np.ndarray] = dict(columns)
        for i, name in enumerate(("fate", "reason")):
            words = [verdicts[verdict][i] for verdict in used]
            codes = [NULLS[name] if word is None else self._code(name, word) for word in words]
            rows[name] = np.array(codes, int)[place]
        for name, column in self.columns.items():
            values = rows.get(name)
            if values is None:
                values = np.full(len(which), NULLS.get(name, 0))
            column.frombytes(values.astype(column.typecode).tobytes())

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Rows as `batches` gives them."""
        import numpy as np
        import pyarrow.compute as pc

        for name, column in self.columns.items():
            values = batch.column(name)
            if name in WORDS:
                codes = [self._code(name, word) for word in values.dictionary.to_pylist()]
                indices = pc.fill_null(values.indices, len(codes)).to_numpy()
                taken = np.array([*codes, NULLS[name]], np.int32)[indices]
            else:
                taken = pc.fill_null(values, NULLS.get(name, 0)).to_numpy()
            column.frombytes(taken.astype(column.typecode).tobytes())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, as record batches of DECISION_SCHEMA."""
        import numpy as np
        import pyarrow as pa

        from pipeline.common.schemas import DECISION_SCHEMA

        columns = []
        for field in DECISION_SCHEMA:
            values = self._values(field.name)
            null = NULLS.get(field.name)
            mask = None if null is None else np.isnan(values) if null != null else values == null
            if field.name in WORDS:
                words = pa.array(list(self.words[field.name]), pa.string())
                # Some readers, such as polars, want a code of the dictionary behind a null too.
                codes = pa.array(np.maximum(values, 0), mask=mask)
                columns.append(pa.DictionaryArray.from_arrays(codes, words))
            else:
                columns.append(pa.array(values, field.type, mask=mask))
        rows = pa.record_batch(columns, schema=DECISION_SCHEMA)
        for first in range(0, len(rows), ROWS_PER_BATCH):
            yield rows.slice(first, ROWS_PER_BATCH)

    def totals(self, fate: str) -> dict[str, dict[str, int]]:
        """The sums of the rows of a fate: counts by unit, by reason in the order of the first row of each."""
        import numpy as np

        reasons = self._values("reason")
        chosen = self._values("fate") == self.words["fate"].get(fate, NULLS["fate"])
        names = list(self.words["reason"])
        found = {}
        for code in np.unique(reasons[chosen]).tolist():
            rows = np.flatnonzero(chosen & (reasons == code))
            found[names[code] if code >= 0 else ""] = {u: int(self._values(u)[rows].sum()) for u in UNITS}
        return found

    def _values(self, name: str) -> np.ndarray:
        import numpy as np

        return np.array(self.columns[name], KINDS[name])

    def _code(self, name: str, word: str) -> int:
        codes = self.words[name]
        return codes.setdefault(word, len(codes))


def url_hash(url: str) -> int:
    """What stands for a URL: its 64-bit xxh3."""
    import xxhash

    return xxhash.xxh3_64_intdigest(url.encode("utf-8", "replace"))


def write_decisions(path: str | Path, schema: pa.Schema, decisions: Decisions) -> None:
    """Write all rows as an Arrow IPC stream with zstd, atomically."""
    write_batches(path, schema, decisions.batches())


def read_decisions(path: str | Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a file, or of its columns in `schema`, checked. Raises StageError as `read_arrow` does."""
    for batch in read_arrow(path, schema):
        for name in NEEDED:
            if name in schema.names and batch.column(name).null_count:
                raise StageError(f"{path}: a row without {name}; make it again")
        yield batch


def join(batches: Iterable[pa.RecordBatch]) -> Decisions:
    """The rows of some batches, in memory."""
    rows = Decisions()
    for batch in batches:
        rows.add_batch(batch)
    return rows
