"""The WARC files of a crawl in manifest order: the order that decides which duplicate is the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.options import Crawl, Sample


def manifest(crawl: Crawl, sample: Sample, output: str) -> list[str]:
    """The paths of all WARCs: those of `crawl.warcs` with globs expanded and sorted, or the sample's.

    Raises ConfigError where an entry matches no file or a file is named twice.
    """
    if not crawl.warcs:
        return [f"{output}/crawl/sample-{i:05d}.warc.gz" for i in range(sample.files)]
    found: list[str] = []
    problems = []
    for i, pattern in enumerate(crawl.warcs):
        matches = sorted(map(str, expand(pattern))) or [pattern]
        for path in matches:
            if not Path(path).is_file():
                problems.append(f"crawl.warcs[{i}]: no file matches {pattern}; paths are relative to {Path.cwd()}")
            elif path in found:
                problems.append(f"crawl.warcs[{i}]: {path} is named twice; its pages would count twice")
            else:
                found.append(path)
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def expand(pattern: str) -> Iterator[Path]:
    """The paths that match a glob, which may be absolute and may hold `**`."""
    path = Path(pattern)
    return Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)))


def batches(warcs: list[str], size: int) -> dict[str, list[str]]:
    """Names 00000, 00001, … and the WARCs of each batch: what one job reads and one shard holds."""
    return {f"{i // size:05d}": warcs[i : i + size] for i in range(0, len(warcs), size)}
