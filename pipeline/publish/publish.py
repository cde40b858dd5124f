"""A corpus as a folder for the hub, or as a recipe: all that is needed to make it again, without its text.

A recipe has a file for each shard, with the same rows and columns, but a hash in place of the text. With the
archives, anyone makes the same shards of it, to the byte (`pipeline/publish/rebuild.py`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from pipeline.common.arrow import read_schema
from pipeline.common.config import ConfigError, option, read
from pipeline.common.errors import StageError
from pipeline.common.files import (
    atomic_folder,
    inside,
    link_or_copy,
    read_arrow,
    read_json,
    read_small,
    write_batches,
    write_json,
    write_text,
)
from pipeline.common.markdown import code, front_matter
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.common.shown import data_without_secrets
from pipeline.common.yaml_file import load_yaml, parse_yaml
from pipeline.publish.options import Publish
from pipeline.workflow.fingerprint import ROOT, fingerprint
from pipeline.workflow.layout import shard_parts, shard_path

log = logging.getLogger(__name__)
# xxh3 of the text, with which a rebuilt document is compared.
RECIPE_SCHEMA = SHARD_SCHEMA.remove(0).append(pa.field("text_hash", pa.uint64()))
STATS, SUMS, SHARD_SUMS = "stats.json", "SHA256SUMS", "corpus.sha256"
LICENCE = """
## Licence

The text of each document belongs to the site that it comes from (`url`) and stays under that site's terms; {what}
under {license}. Who wants a document taken out finds its rows by `url`.
"""
PROVENANCE = """
## Provenance

`provenance.json` has the config and the versions of the code and of the libraries, `stats.json` how many documents
each stage kept and dropped. `sha256sum -c {sums}` checks the files.
"""
RECIPE = """
## How to make the text again

This is a recipe: each row has the archive (`warc`), the place in it (`offset`, `record_id`, `digest`) and the
indices of the `paragraphs` kept of that page, and in place of the text its hash (xxh3, 64 bits). With the
archives,

    python -m pipeline rebuild --recipe . --warcs PATH... --output corpus --ledger rebuild.json

makes the same files, whose checksums are in `corpus.sha256`.
"""


def publish(options: Publish, corpus: str, configfile: str, output: str) -> None:
    """Write the folder, whole or not at all: shards or recipe, card, statistics, provenance and checksums.

    Prints how to upload it. Shards are hard links where the file system allows it, since a shard is never changed.
    Raises StageError where the corpus is not complete, or `output` exists and is not an earlier publication.
    """
    check_output(output)
    shards = [path for paths in corpus_shards(corpus).values() for path in paths]
    stats = _without_samples(read_json(Path(corpus, STATS)))
    with atomic_folder(output) as folder:
        for path in shards:
            target = folder / Path(path).relative_to(corpus)
            target.parent.mkdir(parents=True, exist_ok=True)
            if options.recipe:
                write_batches(target, _recipe_schema(path), _recipe_rows(path))
            else:
                link_or_copy(path, target)
        if options.recipe:
            write_text(folder / SHARD_SUMS, "".join(_sums(Path(corpus), map(Path, shards))))
        write_json(folder / STATS, stats)
        write_json(folder / "provenance.json", _provenance(configfile, shards))
        write_text(
            folder / "README.md", _published_card(options, Path(corpus, "README.md").read_text(encoding="utf-8"))
        )
        write_sums(folder)
    size, what = folder_bytes(output) / 1e6, "a recipe of " if options.recipe else ""
    log.info("%s: %s%d shards, %.1f MB; its card is README.md", output, what, len(shards), size)
    print(shlex.join(["hf", "upload", "ACCOUNT/NAME", output, "--repo-type=dataset"]))


def folder_bytes(folder: str) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def check_output(output: str) -> None:
    """Raises StageError where something else than an earlier publication is there."""
    if Path(output).exists() and not Path(output, SUMS).is_file():
        raise StageError(f"{output}: exists and is nothing that publish made; give another --output, or remove it")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_text(folder / SUMS, "".join(_sums(folder, iter(files))))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is in a split of a language of a corpus."""

    shards: int = option(doc="how many there are", unit="files", low=0)
    documents: int = option(doc="in them", unit="documents", low=0)
    paragraphs: int = option(doc="in them", unit="paragraphs", low=0)
    bytes: int = option(doc="of their text", unit="bytes", low=0)


@dataclass(frozen=True, kw_only=True)
class _Languages:
    """What is in a corpus by language and split, of stats.json."""

    languages: dict[str, dict[str, Counts]] = option(doc="the counts by language and split")


def corpus_shards(corpus: str | Path) -> dict[str, list[str]]:
    """By language, the paths of the shards of a corpus or recipe, in order, as its statistics count them.

    Raises StageError where these are missing or damaged, or a shard that they count is not there.
    """
    return {language: _shards(corpus, language, splits) for language, splits in corpus_counts(corpus).items()}


def corpus_counts(corpus: str | Path) -> dict[str, dict[str, Counts]]:
    """What is in a corpus by language and split. Raises StageError where its statistics are missing or damaged."""
    path = Path(corpus, STATS)
    if not path.is_file():
        raise StageError(f"{path}: missing; --corpus is the folder `corpus` of a workflow's output, made whole")
    stats = read_json(path)
    ledgers = stats.get("ledgers") if isinstance(stats, dict) else None
    if not isinstance(ledgers, list) or not all(isinstance(ledger, dict) for ledger in ledgers):
        raise StageError(f"{path}: no statistics of a corpus; make them again with `card`")
    try:
        return read(_Languages, {"languages": stats.get("languages")}, str(path)).languages
    except ConfigError as error:
        raise StageError(f"{error}; make the statistics again with `card`") from None


def _shards(corpus: str | Path, language: str, splits: dict[str, Counts]) -> list[str]:
    """The paths of the shards of a language."""
    total = sum(counts.shards for counts in splits.values())
    paths: list[str] = []
    for split, counts in splits.items():
        for number in range(counts.shards):
            name = shard_path("", language, split, f"{number:05d}")
            path = inside(corpus, str(name))
            if len(name.parts) != 2 or shard_parts(name) != (language, split, f"{number:05d}"):
                raise StageError(f"{corpus}: {language!r:.200} and {split!r:.200} are no language and split")
            if not path.is_file():  # so that a count of any size ends at what is there
                raise StageError(
                    f"{path}: missing; the statistics count {total:,} {language} shards; run the workflow's "
                    "`corpus` again"
                )
            paths.append(str(path))
    return paths


def _without_samples(stats: dict[str, Any]) -> dict[str, Any]:
    """The statistics without the samples of text, most of which was dropped for a reason."""
    return stats | {"ledgers": [{k: v for k, v in x.items() if k != "samples"} for x in stats["ledgers"]]}


def _recipe_schema(shard: str) -> pa.Schema:
    """With the shard's metadata, so that a rebuilt shard has them too."""
    return RECIPE_SCHEMA.with_metadata(read_schema(shard).metadata)


def _recipe_rows(shard: str) -> Iterator[pa.RecordBatch]:
    for batch in read_arrow(shard, SHARD_SCHEMA):
        hashes = [text_hash(text) for text in batch.column("text").to_pylist()]
        columns = [batch.column(name) for name in RECIPE_SCHEMA.names[:-1]]
        yield pa.record_batch([*columns, pa.array(hashes, pa.uint64())], schema=RECIPE_SCHEMA)


def text_hash(text: str) -> int:
    """xxh3 of a text in UTF-8, 64 bits."""
    return xxhash.xxh3_64_intdigest(text.encode())


def _sums(folder: Path, files: Iterator[Path]) -> Iterator[str]:
    """A line for each file, as sha256sum writes and reads them."""
    for path in files:
        yield f"{sha256(path)}  {path.relative_to(folder)}\n"


def read_sums(path: str | Path) -> dict[str, str]:
    """The checksum of each file in a list that `_sums` wrote. Raises StageError where it is none."""
    try:
        lines = read_small(path, "fetch it again").decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read ({error}); fetch it again") from None
    sums = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines if line]
    if None in sums:
        raise StageError(f"{path}: line {sums.index(None) + 1} is none of sha256sum; fetch it again")
    return {match[2]: match[1] for match in sums if match}


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_version() -> dict[str, Any]:
    """The code and the libraries that the text of a page depends on."""
    packages = ("neutral-residues", "fastwarc", "resiliparse", "pyarrow")
    return {
        "fingerprint": fingerprint("pipeline.extract.webpages:extract"),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _provenance(configfile: str, shards: list[str]) -> dict[str, Any]:
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    config = data_without_secrets(load_yaml(configfile))
    return {"code": code_version() | {"commit": commit}, "config": config, "shards": len(shards)}


def _published_card(options: Publish, card: str) -> str:
    """The corpus's card with a licence in its header, and where it comes from."""
    what = "the recipe itself is" if options.recipe else "the selection and its metadata are"
    entries, body = read_card(card)
    header = front_matter({"license": options.license} | entries)
    licence = LICENCE.format(what=what, license=code(options.license))
    return header + body + (RECIPE if options.recipe else "") + PROVENANCE.format(sums=SUMS) + licence


def read_card(card: str) -> tuple[dict[str, Any], str]:
    """The entries of the header of a card, and what is below it. Raises StageError where there is no header."""
    start, header, body = (card.split("---\n", 2) + [""] * 3)[:3]
    if start or not body:
        raise StageError("README.md: it has no header in YAML; make the corpus's card again with `card`")
    return parse_yaml(header.encode()), body
