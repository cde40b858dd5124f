"""The WARC files of a crawl in manifest order: the order that decides which duplicate is the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def manifest(patterns: list[str]) -> tuple[list[str], list[str]]:
    """The paths of all WARCs, globs expanded and sorted, and a problem for each pattern that is wrong."""
    found: list[str] = []
    problems = []
    for pattern in patterns:
        matches = sorted(str(path) for path in expand(pattern) if path.is_file())
        if not matches:
            problems.append(f"no file matches {pattern}; paths are relative to {Path.cwd()}")
        if twice := [path for path in matches if path in found]:
            problems.append(f"{twice[0]} is named twice; its pages would count twice")
        found += matches
    return found, problems


def sample_files(output: str, count: int) -> list[str]:
    """The WARCs of the sample crawl."""
    return [f"{output}/crawl/sample-{i:05d}.warc.gz" for i in range(count)]


def expand(pattern: str) -> Iterator[Path]:
    """The paths that match a glob, which may be absolute and may hold `**`."""
    path = Path(pattern)
    return Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))


def batches(warcs: list[str], size: int) -> dict[str, list[str]]:
    """Names 00000, 00001, … and the WARCs of each batch: what one job reads and one shard holds."""
    return {f"{i // size:05d}": warcs[i : i + size] for i in range(0, len(warcs), size)}
