"""What lies between the archives and the shards: freed when the corpus is whole, and what stays known of it.

Snakemake makes a missing file again only for a job that has to run: where these are missing, a workflow that was
complete has nothing to do, and one whose corpus changes makes what it needs of them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

from pipeline.common.arrow import read_schema
from pipeline.common.config import option, read
from pipeline.common.errors import StageError
from pipeline.common.files import inside, read_json, write_json
from pipeline.common.locks import delete
from pipeline.workflow.layout import Layout
from pipeline.workflow.records import keep

NUMBER = "[0-9]" * 5


@dataclass(frozen=True)
class Freed:
    """What the report, plans and comparisons say of files that were freed."""

    bytes: dict[str, int] = option({}, "of each file, by its path in the results", unit="bytes")
    archive_bytes: dict[str, int] = option({}, "of the archives of each list of pages", unit="bytes")
    options: dict[str, str] = option({}, "of each stage that stamps its files, as JSON")


def clean(output: str, crawl: list[str]) -> None:
    """Free what is needed only to make the corpus of the results `output`, and print it.

    crawl: archives that can be made again, such as the sample's. Lists go before what they name, so that whatever
    a kill leaves is whole. Raises StageError where the corpus is not there yet.
    """
    out = Layout(output)
    if not Path(out.stats).exists():
        raise StageError(f"{output}: the corpus is not complete; run `snakemake corpus`, with its config, first")
    # While they are there: else an option that changes later would not be seen.
    keep(output)
    files = intermediate(out, crawl)
    sizes = {str(path.relative_to(output)): size(path) for path in files}
    freed = {
        "bytes": read_freed(out).bytes | sizes,
        "archive_bytes": archive_bytes(out),
        "options": {stage: json.dumps(options) for stage, options in stamped_options(out).items()},
    }
    if files:
        write_json(out.freed, freed)
    for path in files:
        delete(path)
    print("\n".join(["Freed:", *listing(out, sizes)]))


def what_goes(output: str, crawl: list[str]) -> str:
    """What `clean` would free now, in lines."""
    out = Layout(output)
    return "\n".join(
        listing(out, {str(path.relative_to(output)): size(path) for path in intermediate(out, crawl)})
    )


def intermediate(out: Layout, crawl: Iterable[str]) -> list[Path]:
    """The files and folders to free, in the order in which they go; ledgers, reports and the index of hashes stay.

    Only what stages write under these names: whatever else lies in the folders is the user's.
    """
    patterns = [
        out.pages(NUMBER),
        out.page_file("*/*"),
        out.page_decisions("*/*"),  # behind the pages, which are not used again without them
        out.hashes(NUMBER),
        out.duplicates(NUMBER),
        out.documents(NUMBER),
        out.sets,
        out.filtered(NUMBER),
        out.signatures(NUMBER),
        out.near_duplicates,
        out.near(NUMBER),
        out.quality_model("*"),
        out.records("[0-9]*"),
    ]
    made = [path for pattern in patterns for path in out.files(pattern)]
    return [*made, *(path for path in map(Path, crawl) if path.exists())]


def listing(out: Layout, sizes: dict[str, int]) -> list[str]:
    """A line for each folder, and one for all of them."""
    folders = groupby(sizes, key=lambda path: path.partition("/")[0])
    totals = [*((f"of {name}/", sum(sizes[path] for path in paths)) for name, paths in folders)]
    return [f"{total / 1e6:>12,.1f} MB {what}" for what, total in [*totals, ("in all", sum(sizes.values()))]]


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


# What stays known -------------------------------------------------------------------------------


def read_freed(out: Layout) -> Freed:
    """Nothing, where nothing was freed. Raises ConfigError and StageError where the file is damaged."""
    return read(Freed, read_json(out.freed), out.freed) if Path(out.freed).exists() else Freed()


def written(out: Layout, freed: Freed, patterns: Iterable[str]) -> int:
    """Bytes of the files that paths with stars match, with those of them that were freed."""
    sizes: dict[str, int] = {}
    for pattern in patterns:
        name = str(PurePath(pattern).relative_to(out.root))
        sizes |= {path: count for path, count in freed.bytes.items() if PurePath(path).match(name)}
        sizes |= {str(path.relative_to(out.root)): path.stat().st_size for path in out.files(pattern)}
    return sum(sizes.values())


def archive_bytes(out: Layout) -> dict[str, int]:
    """Bytes of the archives of each list of pages; each file of pages says its archive's (extract)."""
    sizes = dict(read_freed(out).archive_bytes)
    for batch in out.files(out.pages(NUMBER)):
        files = (inside(batch.parent, name) for name in read_json(batch).get("files", ()))
        read = sum(int((read_schema(file).metadata or {}).get(b"archive_bytes", 0)) for file in files)
        sizes[str(batch.relative_to(out.root))] = read
    return sizes


def stamped_options(out: Layout) -> dict[str, dict[str, Any]]:
    """The options that the Arrow files of the corpus wing say they were made with, by stage."""
    options = {stage: json.loads(text) for stage, text in read_freed(out).options.items()}
    for pattern in (
        out.page_file("*/*"),
        out.documents("*"),
        out.filtered("*"),
        out.near("*"),
        out.shard("*", "*", "*"),
    ):
        for path in out.files(pattern)[:1]:
            stamp = json.loads((read_schema(path).metadata or {}).get(b"pipeline", b"{}"))
            options[str(stamp.get("stage"))] = stamp.get("options", {})
    return options
