"""The shards of a published recipe again, from the archives (`pipeline/publish/publish.py`).

A batch reads its archives one after the other. The rows of its shards are in the order of the archives, so that
only the rows of one archive are in memory.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline.common.arrow import read_schema
from pipeline.common.engine import map_items
from pipeline.common.errors import StageError
from pipeline.common.files import arrow_rows, inside, read_arrow
from pipeline.common.ledger import Ledger, merge
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.corpus.paragraphs import kept_text
from pipeline.crawl.origins import input_files
from pipeline.extract.charset import read_charset_column, text_charset
from pipeline.extract.main_text import plain_text
from pipeline.extract.sandbox import Extraction, Extractor
from pipeline.network.urls import is_url
from pipeline.publish.publish import RECIPE_SCHEMA, code_version, sha256, text_hash
from pipeline.publish.recipe import Recipe, check_shards, read_recipe
from pipeline.warc.content import Response
from pipeline.warc.reader import responses

RecipeRow = dict[str, Any]
Write = Callable[[RecipeRow], None]
PART_BYTES = 2**28  # of rows in memory; those of an archive of CommonCrawl take less than half of it
PAGE_SECONDS = 60  # generous: a page that was extracted once should be again


def rebuild(recipe: str, warcs: list[str], output: str, ledger: str, workers: int, scheduler: str | None) -> None:
    """Write the shards into the folder `output`, and a ledger of the documents that could not be made again.

    A shard that is there with the right checksum is kept. Raises StageError where the recipe is damaged, and,
    after all is written, where a document or a shard is not that of the recipe; the ledger has the reasons.
    """
    _check_place(recipe, ledger)
    made = read_recipe(recipe)
    here = code_version()["versions"]
    others = [name for name, version in made.versions.items() if version != here.get(name)]
    if differing := [f"{name} {made.versions[name]}, here {here.get(name)}" for name in others]:
        logging.warning("the recipe was made with %s; texts may differ", "; ".join(differing))
    files: dict[str, list[str]] = defaultdict(list)
    for file in input_files(warcs)[0]:
        files[_file_name(file.source)].append(file.path)
    rebuild_one = functools.partial(_rebuild_batch, made, dict(files), output)
    results = map_items(rebuild_one, made.batches, workers, scheduler, "rebuild", "batches")
    book = merge("rebuild", (data for data, _ in results))
    book.write(ledger)
    if wrong := [shard for _, shards in results for shard in shards]:
        lost = sum(counts["documents"] for counts in book.failed.values())
        reasons = ", ".join(f"{reason} {counts['documents']}" for reason, counts in sorted(book.failed.items()))
        raise StageError(
            f"{len(wrong)} of {len(made.sums)} shards are not the recipe's, such as {wrong[0]}: {lost} documents "
            f"could not be made again ({reasons or 'the libraries differ'}); give the missing archives and run "
            "again"
        )
    logging.info("%s: %d shards, as the recipe has them", output, len(made.sums))


def _check_place(recipe: str, path: str) -> None:
    """Raises StageError where a file to write is in the recipe, behind a link out of it, as others may make."""
    name = os.path.relpath(path, recipe)
    if PurePosixPath(name).parts[:1] != ("..",):
        inside(recipe, name)


def _rebuild_batch(
    recipe: Recipe, files: dict[str, list[str]], output: str, shards: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Write the shards of a batch; returns its ledger, and those shards that did not come out as they should.

    `files` are the paths of the archives by their names.
    """
    check_shards(recipe, shards)
    book = Ledger("rebuild")
    for shard in shards:
        _check_place(recipe.folder, f"{output}/{shard}")
    left = [shard for shard in shards if not _is_right(Path(output, shard), recipe.sums[shard])]
    for shard in set(shards).difference(left):
        for row in _rows(recipe.folder, shard):
            book.enter(**_count(row))
            book.keep(**_count(row))
    with contextlib.ExitStack() as stack:
        write = {
            shard: stack.enter_context(arrow_rows(Path(output, shard), _schema(recipe.folder, shard)))
            for shard in left
        }
        extractor = Extractor(PAGE_SECONDS)
        stack.callback(extractor.stop)
        for name, rows in _by_archive(recipe.folder, left):
            _rebuild_rows(files.get(_file_name(name), []), rows, write, extractor, book)
    return book.data(), [shard for shard in left if not _is_right(Path(output, shard), recipe.sums[shard])]


def _file_name(warc: str) -> str:
    """The name of an archive's file: of what was fetched a row has CommonCrawl's path, or the URL.

    >>> _file_name("crawl-data/CC-MAIN-2026-30/a.warc.gz"), _file_name("https://h/x/a.warc.gz?sig=***")
    ('a.warc.gz', 'a.warc.gz')
    """
    return PurePosixPath(re.split("[?#]", warc)[0] if is_url(warc) else warc).name


def _is_right(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _schema(recipe: str, shard: str) -> pa.Schema:
    return SHARD_SCHEMA.with_metadata(read_schema(Path(recipe, shard)).metadata)


def _rows(recipe: str, shard: str) -> Iterator[RecipeRow]:
    for batch in read_arrow(Path(recipe, shard), RECIPE_SCHEMA):
        yield from batch.to_pylist()


def _by_archive(recipe: str, shards: list[str]) -> Iterator[tuple[str, list[tuple[str, RecipeRow]]]]:
    """The rows of all shards by their archive, in the order in which the batch read its archives.

    So many rows of an archive that they take more than PART_BYTES come in parts.
    """
    streams = {shard: groupby(_rows(recipe, shard), itemgetter("warc")) for shard in shards}
    heads = {shard: next(stream, None) for shard, stream in streams.items()}
    while names := [head[0] for head in heads.values() if head]:
        name = min(names)  # where archives are sorted by name, each is read once for all shards
        rows = []
        for shard, head in heads.items():
            if head and head[0] == name:
                left = PART_BYTES // len(shards)
                for row in head[1]:
                    rows.append((shard, row))
                    left -= _bytes(row)
                    if left < 0:
                        break
                else:
                    heads[shard] = next(streams[shard], None)
        if rows:
            yield name, rows


def _bytes(row: RecipeRow) -> int:
    """About how much memory a row takes."""
    return 2000 + 40 * len(row["paragraphs"]) + sum(len(x) for x in row.values() if isinstance(x, str))


def _rebuild_rows(
    paths: list[str],
    rows: list[tuple[str, RecipeRow]],
    write: dict[str, Write],
    extractor: Extractor,
    book: Ledger,
) -> None:
    """Write the documents that one archive has, in the order of the rows, and count the others."""
    wanted = {_key(row["offset"], row["record_id"], row["url"]): row for _, row in rows}
    texts: dict[tuple[int, str, str], Extraction] = {}
    missing = Extraction("", "missing_record" if paths else "missing_archive")
    for path in paths:  # more than one where folders have archives of the same name
        for record in responses(path):
            if isinstance(record, Response):
                key = _key(record.offset, record.record_id, record.url)
                if key in wanted and not texts.get(key, missing).text:
                    texts[key] = _kept_text(record, wanted[key], extractor)
    for shard, row in rows:
        book.enter(**_count(row))
        text, problem = texts.get(_key(row["offset"], row["record_id"], row["url"]), missing)
        if problem:
            book.fail(problem, **_count(row))
            continue
        book.keep(**_count(row))
        write[shard]({name: row[name] for name in SHARD_SCHEMA.names[1:]} | {"text": text})


def _key(offset: int, record_id: str, url: str) -> tuple[int, str, str]:
    """What identifies a record of an archive: a frame may hold several, and old ARC records have no id."""
    return offset, record_id, url


def _count(row: RecipeRow) -> dict[str, int]:
    return {"documents": 1, "paragraphs": len(row["paragraphs"])}


def _kept_text(record: Response, row: RecipeRow, extractor: Extractor) -> Extraction:
    """The kept paragraphs of a page, or the reason why they are not those of the recipe."""
    if record.problem:
        return Extraction("", record.problem)
    if record.digest != row["digest"]:
        return Extraction("", "digest_differs")
    codec, decided_by = read_charset_column(row["charset"])
    if decided_by == "WET":
        extraction = Extraction(plain_text(record.body, text_charset(record.body, record.charset)))
    else:
        extraction = extractor.extract(record.body, codec)
    if extraction.failure:
        return extraction
    lines = extraction.text.split("\n")
    if not all(a < b for a, b in pairwise([-1, *row["paragraphs"], len(lines)])):
        return Extraction("", "text_differs")
    kept = kept_text(lines, row["paragraphs"])
    return Extraction(kept) if text_hash(kept) == row["text_hash"] else Extraction("", "text_differs")
