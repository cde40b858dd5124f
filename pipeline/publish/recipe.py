"""What is in a recipe, which somebody else may have made: nothing of it is used before it is checked here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from pipeline.common.arrow import read_schema
from pipeline.common.errors import StageError
from pipeline.common.files import ROWS_PER_BATCH, read_arrow, read_json
from pipeline.common.guard import BeyondBounds, guarded
from pipeline.publish.publish import RECIPE_SCHEMA, SHARD_SUMS, SUMS, corpus_shards, read_sums, sha256
from pipeline.workflow.layout import shard_parts

CURE = "fetch the recipe again, or ask whoever made it"
# Of the shards of a batch, to read them once; and of one record batch. `publish` writes none that needs a tenth.
SECONDS, MEMORY, BATCH_BYTES = 600, 2 * 2**30, 2**26
# In a batch whose folders have archives of the same names, a name comes up again with each folder.
MOST_PARTS = 1000
MAY_BE_NULL = ("date", "quality_score")


@dataclass(frozen=True)
class Recipe:
    """Of a recipe in `folder`: the shards of each batch, relative to it, in order; the checksum of each, as it is
    and as it must come out; the versions of the libraries that made it."""

    folder: str
    batches: list[list[str]]
    own: dict[str, str]
    sums: dict[str, str]
    versions: dict[str, str]


def read_recipe(folder: str) -> Recipe:
    """All of a recipe but the rows. Raises StageError where it is damaged, or is none."""
    batches: dict[str, list[str]] = defaultdict(list)
    for paths in corpus_shards(folder).values():
        for path in paths:
            batches[shard_parts(path)[2]].append(str(Path(path).relative_to(folder)))
    own, sums = read_sums(Path(folder, SUMS)), read_sums(Path(folder, SHARD_SUMS))
    for shard in (shard for shards in batches.values() for shard in shards):
        if not (shard in own and shard in sums):
            raise StageError(f"{folder}: no checksum of {shard}; {CURE}")
    return Recipe(folder, [shards for _, shards in sorted(batches.items())], own, sums, _versions(folder))


def _versions(folder: str) -> dict[str, str]:
    path = Path(folder, "provenance.json")
    made = read_json(path, CURE)
    try:
        versions = dict(made["code"]["versions"])
    except (TypeError, KeyError, ValueError):
        raise StageError(f"{path}: no versions of the code; {CURE}") from None
    for text in (*versions, *versions.values()):
        if not isinstance(text, str) or not re.fullmatch(r"[\w.+!-]{1,100}", text):
            raise StageError(f"{path}: {text!r:.200} is no name or version of a library; {CURE}")
    return versions


def check_shards(recipe: Recipe, shards: list[str]) -> None:
    """Raises StageError where a shard of a recipe is not what its checksum says, or nothing that `publish` writes.

    It is read in a process with bounds, since some kilobytes of Arrow may unpack to gigabytes.
    """
    for shard in shards:
        if sha256(Path(recipe.folder, shard)) != recipe.own[shard]:
            raise StageError(f"{recipe.folder}/{shard}: not what {SUMS} says; {CURE}")
    try:
        guarded("pipeline.publish.recipe:check_rows", recipe.folder, shards, seconds=SECONDS, memory=MEMORY)
    except BeyondBounds as error:
        raise StageError(f"{recipe.folder}: to read {', '.join(shards)} {error}; {CURE}") from None


def check_rows(folder: str, shards: list[str]) -> None:
    """Raises StageError where the rows of a shard are none of a recipe."""
    for shard in shards:
        path = Path(folder, shard)
        try:
            if not read_schema(path).equals(RECIPE_SCHEMA):
                raise StageError(f"{path}: its columns are not those of a recipe; {CURE}")
            parts = Counter(name for name, _ in groupby(_checked_archives(path)))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise StageError(f"{path}: damaged ({error}); {CURE}") from None
        for name, count in parts.most_common(1):
            if count > MOST_PARTS:
                raise StageError(f"{path}: {name!r:.200} comes up {count} times; {CURE}")


def _checked_archives(path: Path) -> Iterator[str]:
    """The archive of each row. Raises StageError where a record batch is nothing that `publish` writes."""
    for batch in read_arrow(path):
        batch.validate(full=True)
        if batch.num_rows > ROWS_PER_BATCH or batch.nbytes > BATCH_BYTES:
            raise StageError(f"{path}: {batch.num_rows} rows of {batch.nbytes} bytes at once; {CURE}")
        needed = {name: batch.column(name) for name in batch.schema.names if name not in MAY_BE_NULL}
        for name, column in (*needed.items(), ("paragraphs", needed["paragraphs"].flatten())):
            if column.null_count:
                raise StageError(f"{path}: {name} is missing in a row; {CURE}")
        yield from needed["warc"].to_pylist()
