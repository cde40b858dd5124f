"""The WARC files of a crawl in manifest order: the order that decides which duplicate is the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def manifest(patterns: list[str]) -> tuple[list[list[str]], list[str]]:
    """The paths of the WARCs of each pattern, globs expanded and sorted, and a problem for each that is wrong."""
    found: list[list[str]] = []
    known: set[str] = set()
    problems = []
    for pattern in patterns:
        matches = sorted(str(path) for path in expand(pattern) if path.is_file())
        if not matches:
            problems.append(f"no file matches {pattern}; paths are relative to {Path.cwd()}")
        if twice := sorted(known.intersection(matches)):
            problems.append(f"{twice[0]} is named twice; its pages would count twice")
        found.append(matches)
        known.update(matches)
    return found, problems


def sample_files(output: str, count: int) -> list[str]:
    """The WARCs of the sample crawl."""
    return [f"{output}/crawl/sample-{i:05d}.warc.gz" for i in range(count)]


def expand(pattern: str) -> Iterator[Path]:
    """The paths that match a glob, which may be absolute and may hold `**`."""
    path = Path(pattern)
    return Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))


def batches(entries: list[list[str]], size: int) -> dict[str, list[str]]:
    """Names 00000, 00001, … and the WARCs of each batch: what one job reads and one shard holds.

    No batch holds WARCs of two entries of the manifest, so that an entry added at the end leaves every batch
    before it as it was, and with it all that was made of it.
    """
    parts = [warcs[i : i + size] for warcs in entries for i in range(0, len(warcs), size)]
    return {f"{number:05d}": warcs for number, warcs in enumerate(parts)}
