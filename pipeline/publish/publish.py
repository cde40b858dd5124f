"""A corpus as a folder for the hub, or as a recipe: all that is needed to make it again, without its text.

A recipe has a file for each shard, with the same rows and columns, but a hash in place of the text. With the
archives, anyone makes the same shards of it, to the byte (`pipeline/publish/rebuild.py`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from pipeline.common.errors import StageError
from pipeline.common.files import (
    atomic_folder,
    link_or_copy,
    read_arrow,
    read_json,
    read_schema,
    write_batches,
    write_json,
    write_text,
)
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.publish.options import Publish
from pipeline.workflow.fingerprint import ROOT, fingerprint
from pipeline.workflow.layout import shard_path

# xxh3 of the text, with which a rebuilt document is compared.
RECIPE_SCHEMA = SHARD_SCHEMA.remove(0).append(pa.field("text_hash", pa.uint64()))
SUMS, SHARD_SUMS = "SHA256SUMS", "corpus.sha256"
LICENCE = """
## Licence

The text of each document belongs to the site that it comes from (`url`) and stays under that site's terms; {what}
under `{license}`. Who wants a document taken out finds its rows by `url`.
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

    Shards are hard links where the file system allows it, since a shard is never changed. Raises StageError where
    the corpus is not complete, or `output` exists and is not an earlier publication.
    """
    if Path(output).exists() and not Path(output, SUMS).is_file():
        raise StageError(f"{output}: exists and is nothing that publish made; give another --output, or remove it")
    stats = _without_samples(_stats(corpus))
    shards = [path for language in stats["languages"] for path in corpus_shards(corpus, stats, language)]
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
        write_json(folder / "stats.json", stats)
        write_json(folder / "provenance.json", _provenance(configfile, shards))
        write_text(
            folder / "README.md", _published_card(options, Path(corpus, "README.md").read_text(encoding="utf-8"))
        )
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_text(folder / SUMS, "".join(_sums(folder, iter(files))))


def corpus_shards(corpus: str | Path, stats: dict[str, Any], language: str) -> list[str]:
    """Paths of the shards of a language, in order. Raises StageError where one that `stats` counts is missing."""
    paths = [
        shard_path(corpus, language, split, f"{number:05d}")
        for split, counts in stats["languages"][language].items()
        for number in range(counts["shards"])
    ]
    if missing := [path for path in paths if not path.is_file()]:
        raise StageError(
            f"{missing[0]}: missing, one of {len(missing)} of {len(paths)} {language} shards; run the workflow's "
            "`corpus` again"
        )
    return list(map(str, paths))


def _stats(corpus: str) -> dict[str, Any]:
    path = Path(corpus, "stats.json")
    if not path.is_file():
        raise StageError(f"{path}: missing; --corpus is the folder `corpus` of a workflow's output, made whole")
    stats: dict[str, Any] = read_json(path)
    return stats


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
    """The checksum of each file in a list that `_sums` wrote."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


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
    import yaml

    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    config = yaml.safe_load(Path(configfile).read_text(encoding="utf-8"))
    return {"code": code_version() | {"commit": commit}, "config": config, "shards": len(shards)}


def _published_card(options: Publish, card: str) -> str:
    """The corpus's card with a licence in its header, and where it comes from."""
    what = "the recipe itself is" if options.recipe else "the selection and its metadata are"
    header = card.replace("---\n", f"---\nlicense: {options.license}\n", 1)
    licence = LICENCE.format(what=what, license=options.license)
    return header + (RECIPE if options.recipe else "") + PROVENANCE.format(sums=SUMS) + licence
