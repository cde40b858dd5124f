"""Crawls to measure with: real pages in 24 languages, in WARC files framed as CommonCrawl's are."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.crawl.options import Sample
from pipeline.crawl.sample import choose, write_crawl

FRENCH = {"fiches-travail": 269, "libreoffice-help-fr": 280, "lilypond-doc-fr": 100, "debian-guides": 110}
OTHERS = {
    "debian-handbook-translations": 2921,
    "web-pages": 318,
    "python-doc": 300,
    "postgresql-doc": 600,
    **{
        f"libreoffice-help-{code}": 550
        for code in (
            *("en-us", "de", "cs", "da", "el", "es", "et", "eu", "fi", "hi", "hu", "it", "ja", "ko", "nl", "pl"),
            *("pt", "ru", "sv", "tr", "vi", "zh-cn"),
        )
    },
}
CRAWLS = {
    "mixed": FRENCH | OTHERS,
    "french": {"fiches-travail": 269, "libreoffice-help-fr": 2561, "lilypond-doc-fr": 548},
}
FILES = 5


def make_crawl(name: str, folder: Path) -> list[str]:
    """The WARC files of a crawl: 'mixed' (5% French) or 'french' (nothing else); written where missing."""
    paths = [folder / f"{name}-{i}-of-{FILES}.warc.gz" for i in range(FILES)]
    if not all(path.exists() for path in paths):
        records = []
        for source, count in CRAWLS[name].items():
            records += choose(source, Sample(pages_per_source=count))
            logging.info("%s: %d records", source, len(records))
        write_crawl(records, 0, list(map(str, paths)))
    return list(map(str, paths))
