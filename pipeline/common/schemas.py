"""What is in the files that stages hand on: pages, documents and shards; and what became of each page."""

from __future__ import annotations

import pyarrow as pa

PAGE_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("url", pa.string()),
        ("date", pa.timestamp("s", "UTC")),
        ("language", pa.string()),
        ("language_score", pa.float32()),
        ("charset", pa.string()),
        ("warc", pa.string()),
        ("offset", pa.int64()),
        ("record_id", pa.string()),
        ("digest", pa.string()),
    ]
)
DOCUMENT_SCHEMA = PAGE_SCHEMA.append(pa.field("paragraphs", pa.list_(pa.int32())))
SHARD_SCHEMA = DOCUMENT_SCHEMA.insert(5, pa.field("quality_score", pa.float32()))
# A word that repeats takes a fraction of a byte; docs/formats.md says what each column means.
WORD = pa.dictionary(pa.int32(), pa.string())
DECISION_SCHEMA = pa.schema(
    [
        ("fate", WORD),
        ("reason", WORD),
        ("documents", pa.int64()),
        ("paragraphs", pa.int64()),
        ("bytes", pa.int64()),
        ("language", WORD),
        ("score", pa.float32()),
        ("file", WORD),
        ("place", pa.int64()),
        ("url", pa.uint64()),
    ]
)


def some_columns(*names: str) -> pa.Schema:
    """The schema of some columns of a shard, to read these alone."""
    return pa.schema([SHARD_SCHEMA.field(name) for name in names])
