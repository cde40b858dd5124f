"""Documents that a stage keeps or drops whole, streamed from one Arrow file to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.common.files import read_arrow, stamp, write_batches
from pipeline.common.ledger import Ledger
from pipeline.common.progress import counted
from pipeline.common.schemas import DOCUMENT_SCHEMA


class Drop(NamedTuple):
    """Why a document is dropped, and the number that decided it, if it is one."""

    reason: str
    score: float | None = None


# (row in the file, url, text, language) -> why the document is dropped, or None
Reason = Callable[[int, str, str, str], Drop | None]


def select_documents(
    stage: str, options: Any, documents: str, reason: Reason, output: str, ledger: str, decisions: str | None
) -> None:
    """Write the documents for which `reason` gives None, and the ledger with the reasons of the others."""
    book = Ledger(stage, options)
    write_batches(output, stamp(DOCUMENT_SCHEMA, stage, options), _kept(documents, reason, book))
    book.write(ledger, decisions)


def _kept(documents: str, reason: Reason, book: Ledger) -> Iterator[pa.RecordBatch]:
    row = 0
    for batch in counted(read_arrow(documents, DOCUMENT_SCHEMA), book.stage):
        urls, texts, languages = (batch.column(name).to_pylist() for name in ("url", "text", "language"))
        paragraphs = pc.list_value_length(batch.column("paragraphs")).to_pylist()
        sizes = pc.binary_length(batch.column("text")).to_pylist()
        keep = []
        for i, (url, text, language) in enumerate(zip(urls, texts, languages, strict=True)):
            why = reason(row + i, url, text, language)
            counts = {"documents": 1, "paragraphs": paragraphs[i], "bytes": sizes[i]}
            book.enter(**counts)
            if why is None:
                book.keep(**counts)
            else:
                book.drop(why.reason, **counts, score=why.score)
                book.sample(why.reason, url, text)
            keep.append(why is None)
        row += batch.num_rows
        yield batch.filter(pa.array(keep, pa.bool_()))
