"""Any text as rows to measure: packed rows, shards, JSONL or plain text."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipeline.common.arrow import read_schema
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from pipeline.common.lines import read_lines
from train.data.options import Domain
from train.data.rows import Rows, open_rows
from train.data.tokens import open_tokenizer, tokenize

ROW_TOKENS = 1024
SCHEMA = pa.schema([("text", pa.string()), ("url", pa.string())])


def open_corpus(path: str, backbone: str, folder: str) -> Rows:
    """The rows of `path`; text that is not tokenized yet becomes rows in `folder`, by the backbone's tokenizer.

    path: packed rows; or one or, by a pattern (*), several files: .arrow shards and .jsonl have a `text` a
    document, a .txt is one document. Rows have ROW_TOKENS tokens, or what the backbone's tokenizer says it can
    take, if less. Raises StageError where there is no such file, or no text in it.
    """
    files = sorted(glob.glob(path))  # noqa: PTH207 - the pattern may be absolute
    if not files and Path(path).is_file():  # its name has brackets
        files = [path]
    suffix = Path(path).suffix
    if suffix not in (".txt", ".jsonl") and (not files or _are_rows(files[0])):
        return open_rows(path)
    if not files:
        raise StageError(f"{path}: no such file; give rows, .arrow shards, .jsonl or .txt")
    shards = files
    if suffix != ".arrow":
        shards = [f"{folder}/text.arrow"]
        write_arrow(shards[0], SCHEMA, ({"text": text, "url": None} for file in files for text in _texts(file)))
    longest = open_tokenizer(backbone).model_max_length
    length = int(min(ROW_TOKENS, longest)) if isinstance(longest, int | float) and longest >= 1 else ROW_TOKENS
    rows, ledger = f"{folder}/rows.arrow", f"{folder}/ledger.json"
    tokenize(Domain(language=f"{path}:"), shards, backbone, "validation", length, rows, ledger)
    return open_rows(rows)


def _are_rows(path: str) -> bool:
    """Whether an Arrow file holds packed rows; True also for what is no Arrow file: open_rows() says so."""
    try:
        return b"rows" in (read_schema(path).metadata or {})
    except StageError:
        return True


def _texts(path: str) -> Iterator[str]:
    number = 0
    try:
        if path.endswith(".txt"):
            yield Path(path).read_text(encoding="utf-8")
            return
        for number, line in enumerate(read_lines(path), 1):  # noqa: B007 - the number is for the error
            yield str(json.loads(line)["text"]).encode("utf-8", "replace").decode()  # half a surrogate pair is "?"
    except UnicodeDecodeError as error:
        raise StageError(f"{path}: not UTF-8 ({error}); convert it") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StageError(f"{path}, line {number}: no JSON with a `text` ({error}); correct it") from None
