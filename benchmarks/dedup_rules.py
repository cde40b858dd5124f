"""What rules of paragraph deduplication leave of the pages of a crawl: ours, and others' by their definitions.

    python -m benchmarks.dedup_rules --output docs/benchmarks/dedup_rules --pages results/demo/pages/?????.json

Ours are run by their stages, and compared with a plain definition. A page counts as cut inside a block where some
of a block's lines went and others stayed; empty lines part blocks. Sources of the definitions: CCNet
(cc_net/dedup.py), Dolma (src/deduper.rs, `min_length`), Dactory (src/entry.rs, `dedup_document`) and datatrove
(sentence_dedup.py, three sentences a span; here lines).
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, compress, groupby
from pathlib import Path
from typing import Any

from benchmarks.report import write
from pipeline.common.files import read_arrow
from pipeline.corpus.dedup import apply_duplicates, hash_paragraphs, reduce_hashes
from pipeline.corpus.folding import fold
from pipeline.corpus.options import Dedup

Block = list[str]
Page = list[Block]
Kept = list[list[list[bool]]]  # of each line of each block of each page whether it stays
MIN_CHARS = 200  # a page with less text left goes, by all rules
SPAN = 3


def blocks_of(lines: list[str]) -> Page:
    return [list(block) for is_text, block in groupby(lines, bool) if is_text]


def first_stays(pages: list[Page], least: int = 0) -> Kept:
    """Of equal lines the first stays, and those shorter than `least` characters."""
    seen: set[str] = set()
    return [
        [[len(line) < least or not (line in seen or seen.add(line)) for line in block] for block in page]  # type: ignore[func-returns-value]
        for page in pages
    ]


def blocks_with_news(pages: list[Page], share: float, least: int = 0) -> Kept:
    """Blocks stay whole of whose bytes more than `share` are in lines that did not come before."""
    kept: Kept = []
    for page, new in zip(pages, first_stays(pages, least), strict=True):
        kept.append([])
        for block, flags in zip(page, new, strict=True):
            sizes = [len(line.encode()) + 1 for line in block]
            news = sum(size for size, flag in zip(sizes, flags, strict=True) if flag)
            kept[-1].append([news > share * sum(sizes)] * len(block))
    return kept


def no_line_twice(pages: list[Page]) -> Kept:
    """Lines that come more than once go everywhere, the first too (CCNet, with its normalisation)."""
    keys = [[fold("\n".join(block)) for block in page] for page in pages]
    counts = Counter(key for page in keys for block in page for key in block)
    return [[[counts[key] == 1 for key in block] for block in page] for page in keys]


def no_span_twice(pages: list[Page]) -> Kept:
    """Spans of SPAN lines that came before go (datatrove)."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for page in pages:
        lines = [line for block in page for line in block]
        stays = [True] * len(lines)
        for i in range(len(lines) - SPAN + 1):
            span = tuple(lines[i : i + SPAN])
            if span in seen:
                stays[i : i + SPAN] = [False] * SPAN
            seen.add(span)
        flags = iter(stays)
        kept.append([[next(flags) for _ in block] for block in page])
    return kept


def ours(paths: list[str], lines: dict[tuple[Any, ...], list[str]], options: Dedup) -> Kept:
    """The same by the stages, on the files of pages; `lines` are those of each page."""
    kept: dict[tuple[Any, ...], set[int]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hashes = [str(folder / f"hashes/{i}.arrow") for i in range(len(paths))]
        for path, made in zip(paths, hashes, strict=True):
            hash_paragraphs(options, path, made)
        reduce_hashes(options, hashes, f"{name}/duplicates", f"{name}/index.arrow", 1, None)
        for path, made in zip(paths, hashes, strict=True):
            out = f"{name}/documents.arrow"
            apply_duplicates(options, path, f"{name}/duplicates/{Path(made).name}", out, out + ".json")
            kept |= {key_of(row): set(row["paragraphs"]) for b in read_arrow(out) for row in b.to_pylist()}
    result = []
    for key, page in lines.items():
        numbers = iter([i for i, line in enumerate(page) if line])
        left = kept.get(key, set())
        result.append([[next(numbers) in left for _ in block] for block in blocks_of(page)])
    return result


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["warc"], row["offset"], row["record_id"], row["url"]


def rows_of(paths: list[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for batch in read_arrow(path):
            yield from batch.to_pylist()


def row(rule: str, pages: list[Page], kept: Kept, definition: Kept | None = None) -> dict[str, Any]:
    left = cut = paragraphs = size = again = 0
    seen: set[str] = set()
    for page, flags in zip(pages, kept, strict=True):
        lines = list(compress(chain.from_iterable(page), chain.from_iterable(flags)))
        if sum(map(len, lines)) < MIN_CHARS:
            continue
        left += 1
        cut += any(any(some) and not all(some) for some in flags)
        paragraphs += len(lines)
        size += sum(len(line.encode()) for line in lines)
        again += sum(len(line.encode()) for line in lines if line in seen or seen.add(line))  # type: ignore[func-returns-value,misc]
    return {
        "rule": rule,
        "pages left": left,
        "cut inside a block": cut,
        "share cut": cut / left,
        "paragraphs left": paragraphs,
        "text left, MB": size / 1e6,
        "of it in lines that came before": again / size,
        "beside the definition": "" if definition is None else "exact" if kept == definition else "differs",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="path of the table, without its ending")
    parser.add_argument("--pages", required=True, nargs="+", help="files of pages (`extract`)")
    arguments = parser.parse_args()
    lines = {key_of(page): page["text"].split("\n") for page in rows_of(arguments.pages)}
    pages = [blocks_of(page) for page in lines.values()]
    rules: list[tuple[str, dict[str, Any], Callable[[], Kept]]] = [
        ("the first line stays (default; Dolma)", {}, lambda: first_stays(pages)),
        ("and those under 20 characters", {"min_paragraph_chars": 20}, lambda: first_stays(pages, 20)),
        ("and those under 50 characters", {"min_paragraph_chars": 50}, lambda: first_stays(pages, 50)),
        ("blocks of more than 20% news (Dactory)", {"block_new_share": 0.2}, lambda: blocks_with_news(pages, 0.2)),
        (
            "the same, lines under 20 characters are news",
            {"block_new_share": 0.2, "min_paragraph_chars": 20},
            lambda: blocks_with_news(pages, 0.2, 20),
        ),
    ]
    rows = [row("all pages", pages, first_stays(pages, 10**9))]
    for name, options, definition in rules:
        rows.append(row(name, pages, ours(arguments.pages, lines, Dedup(min_chars=1, **options)), definition()))
    rows.append(row("no line that comes twice (CCNet)", pages, no_line_twice(pages)))
    rows.append(row(f"no span of {SPAN} lines twice (datatrove)", pages, no_span_twice(pages)))
    notes = [f"{len(pages):,} pages; a page with less than {MIN_CHARS} characters left does not count."]
    write(arguments.output, "Rules of paragraph deduplication", rows, notes)


if __name__ == "__main__":
    main()
