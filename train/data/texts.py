"""Any text as rows to measure: packed rows, shards, JSONL or plain text."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from models.backbone import network_errors
from models.foreign import read_config
from models.positions import longest_text
from pipeline.common.arrow import read_schema
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from pipeline.common.lines import read_lines
from train.data.options import Domain
from train.data.rows import Rows, open_rows
from train.data.tokens import open_tokenizer, tokenize

log = logging.getLogger(__name__)

ROW_TOKENS = 1024
SCHEMA = pa.schema([("text", pa.string()), ("url", pa.string())])
LINES, PLAIN = (".jsonl", ".jsonl.gz"), (".txt", ".txt.gz")


def open_corpus(path: str, backbone: str, folder: str) -> Rows:
    """The rows of `path`; text that is not tokenized yet becomes rows in `folder`, by the backbone's tokenizer.

    path: packed rows; or one or, by a pattern (*), several files: .arrow shards and .jsonl have a `text` a
    document, a .txt is one document; the last two may be packed (.gz). Rows have ROW_TOKENS tokens, or what the
    backbone and its tokenizer say they can take, if less. Raises StageError where there is no such file, or no
    text in it.
    """
    files = find_files(path)
    shards = files
    if files[0].endswith(LINES + PLAIN):
        shards = [f"{folder}/text.arrow"]
        texts = ({"text": text, "url": None} for file in files for text in _texts(file) if text)
        if not write_arrow(shards[0], SCHEMA, texts):
            raise StageError(f"{path}: no text in it; give a file that has some")
    elif (schema := _schema(files[0])) is None or b"rows" in (schema.metadata or {}):
        if len(files) > 1:
            raise StageError(f"{path}: {len(files)} files of packed rows; give each a name of its own")
        return open_rows(files[0])  # what is no Arrow file is refused there
    limits = (ROW_TOKENS, open_tokenizer(backbone).model_max_length, _longest(backbone))
    length = int(min(limit for limit in limits if isinstance(limit, int | float) and limit >= 1))
    rows, ledger = f"{folder}/rows.arrow", f"{folder}/ledger.json"
    tokenize(Domain(language=path), shards, backbone, "validation", length, rows, ledger)
    return open_rows(rows)


def find_files(path: str) -> list[str]:
    """The files that a path or a pattern stands for, all of one kind. Raises StageError where there are none."""
    files = sorted(glob.glob(path))  # noqa: PTH207 - the pattern may be absolute
    if not files and Path(path).is_file():  # its name has brackets
        files = [path]
    if not files:
        raise StageError(f"{path}: no such file; give rows, .arrow shards, .jsonl or .txt")
    for file in files:
        if Path(file).is_dir():
            raise StageError(f"{file}: a folder; give the files in it, such as '{Path(file) / '*.txt'}'")
        if not (file.endswith((".arrow", *LINES, *PLAIN)) or _schema(file) is not None):
            raise StageError(f"{file}: neither .arrow, .jsonl, .txt nor one of the last two as .gz; convert it")
    if len({file.endswith(LINES + PLAIN) for file in files}) > 1:
        raise StageError(f"{path}: .arrow and other files; give one kind at a time")
    return files


def _longest(backbone: str) -> int | None:
    try:
        with network_errors():
            return longest_text(read_config(backbone))
    except (OSError, ValueError) as error:
        raise StageError(f"{backbone}: {error}") from None


def _schema(path: str) -> pa.Schema | None:
    """The schema of an Arrow file; None of any other."""
    try:
        return read_schema(path)
    except StageError:
        return None


def _texts(path: str) -> Iterator[str]:
    """The documents of a .txt or .jsonl, to the byte but for a mark of byte order."""
    if path.endswith(PLAIN):
        yield "".join(read_lines(path, longest=2**31, newline="")).removeprefix("\ufeff")
        return
    for number, line in enumerate(read_lines(path), 1):
        line = line.removeprefix("\ufeff").strip()
        if not line:
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StageError(f"{path}, line {number}: no JSON with a `text` ({error}); correct it") from None
        if not isinstance(text, str):
            raise StageError(f"{path}, line {number}: its `text` is no string ({text!r:.40}); take the line out")
        whole = text.encode("utf-8", "replace").decode()
        if whole != text:
            log.warning("%s, line %d: half of a surrogate pair is no character; it is read as '?'", path, number)
        yield whole
