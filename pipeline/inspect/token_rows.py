"""In which rows of tokens a document of a shard is: by the domains of the config, as `tokenize` takes them.

A row file says in which document of its domain each row begins. Which documents a domain has is in the config
alone, so that it is needed to count them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.arrow import read_batches
from pipeline.common.config import bad_regex
from pipeline.common.files import read_arrow
from pipeline.common.hosts import matches
from pipeline.common.schemas import some_columns
from pipeline.common.yaml_file import load_yaml
from pipeline.corpus.shards import SPLITS
from pipeline.inspect.fates import Crawl
from pipeline.workflow.layout import shard_parts

NEVER = re.compile(r"(?!)")


def rows_of_document(crawl: Crawl, shard: str, row: int, configfile: list[str]) -> Iterator[str]:
    """A line for each domain that has the document in this row of a shard: its rows there.

    `shard` is the path inside the corpus.
    """
    if not configfile:
        yield "in which rows of tokens: give --configfile, which has the domains"
        return
    domains: dict[str, Any] = {}
    for path in configfile:
        domains |= load_yaml(path).get("domains") or {}
    language, split, batch = shard_parts(shard)
    own = {
        name: domain
        for name, domain in domains.items()
        if isinstance(domain, dict) and domain.get("language") == language and not domain.get("corpus")
    }
    held_out = [_pattern(domain) for domain in own.values() if domain.get("held_out")]
    for name, domain in own.items():
        held = bool(domain.get("held_out"))
        before = _documents_before(crawl, language, split, batch, row, held)
        urls = list(before)
        pattern, without = _pattern(domain), [] if held else held_out
        has = [matches(pattern, url) and not any(matches(other, url) for other in without) for url in urls]
        if has and has[-1]:
            rows = crawl.out.rows(name, "validation" if held else split)
            yield f"domain {name}: {_rows_in_words(rows, sum(has) - 1, bool(domain.get('rows')))}"


def _pattern(domain: dict[str, Any]) -> re.Pattern[str]:
    urls = domain.get("urls") or ""
    return NEVER if not isinstance(urls, str) or bad_regex(urls) else re.compile(urls)


def _documents_before(crawl: Crawl, language: str, split: str, batch: str, row: int, held: bool) -> Iterator[str]:
    """The URLs of the documents that `tokenize` reads up to this one, and of it."""
    for part in SPLITS if held else (split,):
        for name in crawl.batches:
            shard = crawl.out.shard(language, part, name)
            is_own = (part, name) == (split, batch)
            if not Path(shard).exists():
                continue
            urls = (url for rows in read_arrow(shard, some_columns("url")) for url in rows.column(0).to_pylist())
            for number, url in enumerate(urls):
                yield url or ""
                if is_own and number == row:
                    return


def _rows_in_words(path: str, document: int, is_some: bool) -> str:
    """The rows of a file that have tokens of a document: those that begin in it, and the one before these.

    Of only some rows (`rows` of the domain) the one before may be of long before.
    """
    if not Path(path).exists():
        return f"document {document:,}; {path} is not there"
    columns = [rows.column("document").to_numpy() for rows in read_batches(path)]
    begins = np.concatenate([np.zeros(0, int), *columns])
    low, high = (int(np.searchsorted(begins, document, side)) for side in ("left", "right"))
    if is_some:
        return f"document {document:,}, in which {high - low:,} of the chosen rows of {path} begin"
    first, last = max(0, low - 1), max(0, high - 1)
    rows = f"row {first:,}" if first == last else f"rows {first:,} to {last:,}"
    maybe = ", or in what is left out behind it" if low == len(begins) else ""
    return f"document {document:,}, {rows} of {path}{maybe}"
