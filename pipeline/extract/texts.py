"""Plain text to pages: books as .txt, a dump of Wikipedia as Parquet, …, beside what is extracted from HTML.

The pages go through deduplication and all later stages like those of a crawl. Their `warc` is the file, their
`offset` the number of the row, line or block.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.common.errors import StageError
from pipeline.common.files import stamp, write_arrow, write_list
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.crawl.origins import LIST, InputFile, failure_row, input_files
from pipeline.crawl.text_files import PLAIN, TABLES, kind_of, text_files, unknown
from pipeline.extract.charset import charset_column, decode, file_charset, is_undecodable, keeps_ascii
from pipeline.extract.language import check_languages, identify, load_model, wanted_languages
from pipeline.extract.main_text import clean_text
from pipeline.extract.options import Extract
from pipeline.extract.pages import UNFIT, fit_page, fit_text
from pipeline.extract.tables import NAMES, OUT_OF_MEMORY, shown_names, start
from pipeline.warc.unpacking import Spend, UnpacksTooFar, allowance

PIECE = 2**20
LINE_COST = 1000  # bytes that a line of JSON counts as besides its own, for the time that it takes
PLAIN_COST = 10  # the same of a line of plain text
WITHOUT_KEY = 1000  # lines after which it is clear that a key is none of this file
# Names of columns and keys that mostly hold the text, the likeliest first.
USUAL = ("text", "content", "raw_content", "body", "document", "article", "markdown", "passage", "sentence")


@dataclass(frozen=True)
class TextRow:
    """A row of a file, numbered from 0, what its columns of text and URL hold: any type, or None; its charset."""

    number: int
    text: Any
    url: Any
    charset: str = "utf-8"


@dataclass(frozen=True)
class Unread:
    """Rows of a file that cannot be had, for a reason, and their bytes, as far as these are known."""

    reason: str
    documents: int = 1
    bytes: int = 0


def read_texts(
    options: Extract,
    files: list[str],
    language_id: str,
    text: str,
    url: str,
    language: str | None,
    output: str,
    ledger: str,
    decisions: str | None = None,
    documents: str = "files",
    folders: Sequence[str] = (),
) -> None:
    """Write the texts in some files as one file of pages, listed in `output` as `extract` does.

    `text` and `url` are the names of columns or keys; `language` is that of all texts, or None: it is identified.
    `documents` are the files, or the blocks, of plain text. A file in one of `folders` is named from there.
    The ledger has the name `extract`, since this stage stands in its place. Raises StageError where a file has no
    such column or key for the text.
    """
    book = Ledger("extract", options)
    inputs, not_fetched = input_files([file for path in files for file in _files(path)])
    folders = [*folders, *filter(_is_own_folder, files)]
    for failure in not_fetched:
        book.fail_unread(**failure_row(failure))
    name = Path(output).with_suffix(".arrow").name
    pages = Path(output).parent / "texts" / name
    model = None
    if not language:
        check_languages(options.languages, language_id)
        model = load_model(language_id)

    def read(path: str) -> Iterator[TextRow | Unread]:
        kind = kind_of(path)
        if kind == PLAIN:
            return (_blocks if documents == "blocks" else _whole)(path, options.max_html_bytes)
        return (_table_rows if kind in TABLES else _json_rows)(path, text, url, options.max_html_bytes)

    named = (dataclasses.replace(file, source=_name(file, folders)) for file in inputs)
    rows = (page for file in named for page in _pages(options, file, read(file.path), language, model, book))
    write_arrow(pages, stamp(PAGE_SCHEMA, "text", options), rows)
    book.write(ledger, decisions)
    write_list(output, [str(pages)])


def _files(path: str) -> list[str]:
    """The texts in a folder; a file, and a folder of fetched ones, as it is. Raises StageError for others."""
    if _is_own_folder(path):
        files, problems, _ = text_files([path])
    else:
        files = [path]
        problems = [] if Path(path).is_dir() or kind_of(path) else [f"{path}: {unknown(path)}"]
    if problems:
        raise StageError("; ".join(problems))
    return files


def _is_own_folder(path: str) -> bool:
    return Path(path).is_dir() and not Path(path, LIST).exists()


def _name(file: InputFile, folders: Sequence[str]) -> str:
    """What provenance calls a file: its path in the first of the folders that has it, else its source."""
    inside = (folder for folder in folders if Path(file.path).is_relative_to(folder))
    return next((str(Path(file.path).relative_to(folder)) for folder in inside), file.source)


def _pages(
    options: Extract,
    file: InputFile,
    rows: Iterable[TextRow | Unread],
    language: str | None,
    model: Any,
    book: Ledger,
) -> Iterator[dict[str, Any]]:
    groups = wanted_languages(model, options.languages, options.language_groups).groups if model else {}
    for row in rows:
        if isinstance(row, Unread):
            book.fail_unread(row.reason, documents=row.documents, bytes=row.bytes, file=file.named)
            continue
        size = len(row.text.encode("utf-8", "replace")) if isinstance(row.text, str) else 0
        book.enter(documents=1, bytes=size)
        page = _page(options, row.text, language, model, groups, book)
        address = row.url if isinstance(row.url, str) and row.url else f"{file.source}#{row.number}"
        about = {"documents": 1, "bytes": size, "file": file.named, "place": row.number, "url": fit_text(address)}
        if not isinstance(page, str):
            place = {"url": address, "date": None, "warc": file.source, "offset": row.number, "record_id": ""}
            page = fit_page(page | place | {"charset": row.charset})
        if isinstance(page, str):
            (book.fail if page in ("no_text", *UNFIT) else book.drop)(page, **about)
            continue
        book.keep(**about, language=page["language"], score=page["language_score"])
        book.sample("kept", page["url"], page["text"])
        yield page


def _page(
    options: Extract,
    content: Any,
    language: str | None,
    model: Any,
    groups: Mapping[str, frozenset[str]],
    book: Ledger,
) -> dict[str, Any] | str:
    """The page, or the reason why there is none."""
    if not isinstance(content, str):
        return "no_text"
    content = clean_text(fit_text(content))
    if len(content) < options.min_chars:
        return "text_too_short"
    label, score = (language, 1.0) if language else identify(model, content, options.language_chars, groups)
    book.language(label, documents=1)
    if label not in options.languages:
        return "other_language"
    if score < options.language_min_score:
        return "uncertain_language"
    sha1 = hashlib.sha1(content.encode(), usedforsecurity=False).digest()
    digest = f"sha1:{base64.b32encode(sha1).decode()}"  # as WARCs have them
    return {"text": content, "language": label, "language_score": score, "digest": digest}


def _table_rows(path: str, text: str, url: str, longest: int) -> Iterator[TextRow | Unread]:
    """The rows of a Parquet or Arrow file. Raises StageError where it has no such column for the text."""
    size = Path(path).stat().st_size
    rows, number, too_far = 1, 0, False
    with start(path, text, url, longest) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy
        try:
            for line in _lines(process.stdout, 6 * longest + 100, allowance(size)):  # JSON has 6 bytes for U+0001
                row = json.loads(line) if isinstance(line, bytes) else {}
                if isinstance(row, list):
                    yield TextRow(number, *row)
                elif "rows" in row:
                    rows = row["rows"]
                    if text not in row["columns"]:
                        raise _no_such_text(f"{path}: no column", text, row["columns"])
                    continue
                else:
                    yield Unread(row["problem"], bytes=row["bytes"])
                number += 1
            process.wait()
        except UnpacksTooFar:
            too_far = True
        except (ValueError, TypeError, KeyError):  # it ended in the middle of a line
            pass
        finally:
            process.kill()
    if number < rows:
        too_far = too_far or process.returncode in (OUT_OF_MEMORY, -signal.SIGXCPU)
        # The file says how many rows it has; it is not believed to have more than bytes.
        lost = min(rows - number, max(size, 1))
        yield Unread("unpacks_too_far" if too_far else "damaged_file", documents=lost)


def _json_rows(path: str, text: str, url: str, longest: int) -> Iterator[TextRow | Unread]:
    """The rows of a file of JSON lines.

    Raises StageError where none of them, or of the first WITHOUT_KEY, has the key for the text.
    """
    has_text, without, first, keys = False, 0, 0, dict[str, None]()
    with _open(path) as stream:
        try:
            for number, line in enumerate(_lines(stream, longest, allowance(Path(path).stat().st_size))):
                if isinstance(line, int):
                    yield Unread("row_too_long", bytes=line)
                    continue
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    yield Unread("bad_json", bytes=len(line))
                    continue
                has_text = has_text or text in row
                if not has_text:
                    without, first = without + 1, first or number + 1
                    keys |= dict.fromkeys(shown_names(row) if len(keys) < NAMES else [])
                    if without == WITHOUT_KEY:
                        break
                yield TextRow(number, row.get(text), row.get(url))
        except (OSError, EOFError) as error:  # all that follows is lost too
            yield _broken(path, error)
        except UnpacksTooFar:
            yield Unread("unpacks_too_far")
    if without and not has_text:
        raise _no_such_text(f"{path}, line {first}: no key", text, list(keys)[:NAMES])


def _no_such_text(where: str, text: str, names: list[str]) -> StageError:
    """The error where a file has no column or key of this name for the text."""
    known = {name.lower(): name for name in reversed(names)}
    likely = [known[name] for name in USUAL if name in known]
    cure = f"set crawl.texts.text to {likely[0]}" if likely else "set crawl.texts.text"
    return StageError(f"{where} {text!r}; it has {', '.join(names) or 'none'}: {cure}")


def _whole(path: str, longest: int) -> Iterator[TextRow | Unread]:
    """A file of plain text as one document."""
    with _open(path) as stream:
        try:
            body = stream.read(longest + 1)
        except (OSError, EOFError) as error:
            yield _broken(path, error)
            return
    if len(body) > longest:
        logging.warning(
            "%s: longer than one document may be, and left out (extract.max_html_bytes: %d); of a file of many "
            "documents set crawl.texts.documents to blocks",
            path,
            longest,
        )
        yield Unread("row_too_long", bytes=Path(path).stat().st_size)
    elif (charset := file_charset(body)) is None:
        yield Unread("not_text", bytes=len(body))
    elif is_undecodable(content := decode(body, charset[0])):
        yield Unread("undecodable", bytes=len(body))
    else:
        yield TextRow(0, content, None, charset_column(*charset))


def _blocks(path: str, longest: int) -> Iterator[TextRow | Unread]:
    """The blocks of a file of plain text, which empty lines part.

    One charset is guessed for all blocks that are no UTF-8: files that were put together may have both.
    """
    number, size = 0, Path(path).stat().st_size
    try:
        charset = file_charset(_telling(path, allowance(size)))
        if charset is None:
            yield Unread("not_text", bytes=size)
            return
        codec, who = charset
        by_line = keeps_ascii(codec)
        reading = ("utf-8", "surrogateescape") if by_line else (codec, "replace")
        with _open(path) as stream, io.TextIOWrapper(stream, *reading) as lines:
            for block in _parted(lines.readline, longest, allowance(size)):
                if isinstance(block, int):
                    yield Unread("row_too_long", bytes=block)
                else:
                    yield _block(number, block, codec, who)
                number += 1
    except (OSError, EOFError) as error:  # all that follows is lost too
        yield _broken(path, error)
    except UnpacksTooFar:
        yield Unread("unpacks_too_far")


def _telling(path: str, spend: Spend) -> bytes:
    """The beginning of a file, or the first piece of it that is not ASCII: by which its charset is told."""
    with _open(path) as stream:
        first = piece = stream.read(PIECE)
        if b"\0" in first:  # UTF-16, or no text
            return first
        while piece.isascii() and (piece := stream.read(PIECE)):
            spend(len(piece))
        return (piece + stream.read(PIECE)).replace(b"\0", b"") if piece else first


def _parted(readline: Callable[[int], str], longest: int, spend: Spend) -> Iterator[str | int]:
    """The blocks of lines that empty ones part; of one longer than `longest` bytes only its size."""
    block: list[str] = []
    size = 0
    while line := readline(PIECE):
        length = len(line.encode("utf-8", "surrogateescape"))
        spend(PLAIN_COST + length)
        if line.strip():
            size += length
            if size <= longest:
                block.append(line)
            else:
                block.clear()
        elif size:
            yield "".join(block) if size <= longest else size
            block, size = [], 0
    if size:
        yield "".join(block) if size <= longest else size


def _block(number: int, block: str, codec: str, who: str) -> TextRow | Unread:
    """The row of a block, which was read as UTF-8, with half a surrogate pair for each byte that is none of it."""
    raw = block.encode("utf-8", "surrogateescape")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        if codec == "utf-8":
            return Unread("not_utf8", bytes=len(raw))
        block = decode(raw, codec)
    else:
        codec, who = (codec, who) if raw.isascii() or not keeps_ascii(codec) else ("utf-8", "detected")
    if is_undecodable(block):
        return Unread("undecodable", bytes=len(raw))
    return TextRow(number, block, None, charset_column(codec, who))


def _open(path: str) -> IO[bytes]:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix)
    source = pa.OSFile(path, "rb")
    return io.BufferedReader(pa.CompressedInputStream(source, kind) if kind else source)


def _broken(path: str, error: OSError | EOFError) -> Unread:
    """What is lost of a packed file that cannot be read on. Of one whose packer looked back far, that is all."""
    if "too much memory" not in str(error):
        return Unread("truncated_file")
    logging.warning("%s: was packed by zstd with --long=28 or more, and left out; pack it again without", path)
    return Unread("packed_too_long")


def _lines(stream: IO[bytes], longest: int, spend: Spend) -> Iterator[bytes | int]:
    """The lines of a stream; of one longer than `longest` bytes only its size. Raises UnpacksTooFar."""
    while line := stream.readline(longest):
        spend(LINE_COST + len(line))
        if len(line) < longest or line.endswith(b"\n"):
            yield line
            continue
        size = len(line)
        while not line.endswith(b"\n") and (line := stream.readline(PIECE)):
            spend(len(line))
            size += len(line)
        yield size
