"""The WARC files of a crawl in manifest order: the order that decides which duplicate is the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.urls import is_url, url_problem


def manifest(patterns: list[str]) -> tuple[list[list[str]], list[str]]:
    """The WARCs of each pattern, and a problem for each pattern that is wrong.

    A pattern is a glob of paths, which is expanded and sorted, a URL, or a list (.txt) of URLs, one a line.
    """
    found: list[list[str]] = []
    known: set[str] = set()
    problems = []
    for pattern in patterns:
        matches = [pattern] if is_url(pattern) else sorted(str(p) for p in expand(pattern) if p.is_file())
        if not matches:
            problems.append(f"no file matches {pattern}; paths are relative to {Path.cwd()}")
        if pattern.endswith(".txt"):
            matches = [
                line for path in matches for line in Path(path).read_text("utf-8").split("\n") if line.strip()
            ]
            problems += [f"{pattern}: {line} is no URL" for line in matches if not is_url(line)][:1]
        urls = [match for match in matches if is_url(match)]
        problems += [f"{url}: {problem}" for url in urls if (problem := url_problem(url))][:3]
        counts = Counter(matches)
        if twice := sorted(name for name in counts if counts[name] > 1 or name in known):
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
