"""The WARC files of a crawl in manifest order: the order that decides which duplicate is the first."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from pipeline.common.config import bad_path
from pipeline.common.shown import shown
from pipeline.network.urls import is_url, url_problem

# Batches of one entry, unless the config sets their size: Snakemake plans so many jobs in seconds, and of a whole
# crawl of 90,000 WARCs a job reads 352, which takes a node some hours.
MOST_BATCHES = 256
LEAST_WARCS = 2
# Of a list of paths or URLs, which may come from others. A whole crawl has 90,000 files, in 13 MB.
LIST_BYTES, LIST_LINES = 2**27, 2**20
TEXTS = "texts, and no archives, are named in crawl.texts"


def manifest(patterns: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The paths or URLs of the WARCs of each entry of `crawl.warcs`, and a message for each wrong entry.

    An entry is a file, a glob, whose matches are sorted, a URL, or a list (.txt) of paths or URLs in its order.
    """
    entries: list[list[str]] = []
    known: set[str] = set()
    problems = []
    for pattern in patterns:
        if pattern.endswith(".txt"):
            warcs, wrong = _read_list(pattern)
            problems += wrong
        elif is_url(pattern):
            warcs = [pattern]
            problems += _wrong_urls(warcs)
        else:
            warcs = sorted(existing(map(str, expand(pattern))))
            if not warcs:
                problems.append(_nothing(pattern))
        problems += [problem for warc in warcs if not is_url(warc) and (problem := bad_path(warc))][:1]
        if twice := sorted(known.intersection(warcs)):
            problems.append(f"{twice[0]} is named twice; its pages would count twice")
        entries.append(warcs)
        known.update(warcs)
    return entries, problems


def _nothing(pattern: str) -> str:
    """What is wrong with an entry that names no file."""
    with contextlib.suppress(ValueError):  # of a zero byte
        if pattern and Path(pattern).is_dir():
            return (
                f"{pattern}: a folder; name the archives in it, such as {pattern.rstrip('/')}/*.warc.gz; {TEXTS}"
            )
    return f"no file matches {pattern}; paths are relative to {Path.cwd()}"


def _read_list(path: str) -> tuple[list[str], list[str]]:
    """The paths that a list names, and what is wrong with it."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            lines = list_lines(file)
    except (OSError, ValueError) as error:
        cure = f"give a path or URL a line, and of a very long list make several; {TEXTS}"
        return [], [f"{path}: cannot be read as a list of WARCs: {error}; {cure}"]
    warcs = [line if is_url(line) else str(Path(line)) for line in map(str.strip, lines) if line]
    local = [warc for warc in warcs if not is_url(warc)]
    missing = sorted(set(local).difference(existing(local)))
    if local and len(missing) == len(set(warcs)):
        return [], [
            f"{path}: none of its {len(warcs)} lines is a path of a file, such as {warcs[0]!r:.200}; paths are "
            f"relative to {Path.cwd()}; {TEXTS}"
        ]
    problems = _wrong_urls(warc for warc in warcs if is_url(warc))
    if not warcs:
        problems.append(f"{path}: names no file; give a path or URL a line")
    if twice := [warc for warc, count in Counter(warcs).items() if count > 1]:
        problems.append(f"{path}: names {len(twice)} files twice, such as {twice[0]}; take the second away")
    if 0 < len(local) < len(warcs):
        problems.append(f"{path}: names local files and URLs; make two lists of it")
    elif missing:
        problems.append(
            f"{path}: {len(missing)} of its {len(warcs)} files are missing, such as {missing[0]}; paths are "
            f"relative to {Path.cwd()}"
        )
    return warcs, problems


def list_lines(file: IO[bytes] | gzip.GzipFile) -> list[str]:
    """The lines of a list, in UTF-8. Raises ValueError where it is none, or longer than one of files ever is."""
    content = file.read(LIST_BYTES + 1)
    if len(content) > LIST_BYTES or content.count(b"\n") > LIST_LINES:
        raise ValueError(f"more than {LIST_LINES:,} lines or {LIST_BYTES:,} bytes")
    return content.decode("utf-8").split("\n")


def _wrong_urls(urls: Iterable[str]) -> list[str]:
    """A message for the first URL that must not be fetched, if there is one."""
    wrong = ((url, problem) for url in urls if (problem := url_problem(url)))
    return [f"{shown(url)}: {problem}" for url, problem in itertools.islice(wrong, 1)]


def existing(paths: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """The paths that are files.

    It lists each folder once: to ask for each file of a whole crawl takes minutes over a network.
    """
    inside: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in inside:
            inside[folder] = _names(folder)
        if name in inside[folder]:
            yield path


def _names(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # of a zero byte
        return set()


def expand(pattern: str) -> Iterator[Path]:
    """The paths that match a glob, which may be absolute and may contain `**`.

    Where none does, the path of this very name: a name may have brackets.
    """
    path, found = Path(pattern), False
    with contextlib.suppress(IndexError, ValueError):  # what pathlib takes for no pattern: "", ".", "a**"
        for match in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))):
            found = True
            yield match
    if not found:
        yield path


def batches(entries: list[list[str]], size: int | Sequence[int | None] | None) -> dict[str, list[str]]:
    """The WARCs of each batch, by its name 00000, 00001, …; a batch is what one job reads and one shard holds.

    A batch has WARCs of one entry of the manifest only, so that an entry added at the end changes no earlier
    batch, and nothing that was made of it. `size` is in WARCs, for all entries or for each; without
    it, it depends on the length of the entry alone.

    >>> batches([["a", "b", "c"], ["d"]], 2)
    {'00000': ['a', 'b'], '00001': ['c'], '00002': ['d']}
    """
    sizes = size if isinstance(size, Sequence) else [size] * len(entries)
    each = zip(entries, sizes, strict=True)
    parts = [part for warcs, most in each for part in _parts(warcs, most or _batch_size(warcs))]
    return {f"{number:05d}": part for number, part in enumerate(parts)}


def _parts(warcs: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(warcs), size):
        yield warcs[first : first + size]


def _batch_size(warcs: list[str]) -> int:
    return max(LEAST_WARCS, -(-len(warcs) // MOST_BATCHES))
