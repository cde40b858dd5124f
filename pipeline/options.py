"""Every option of the corpus wing: name, type, default, unit and what it means. One class, one section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import option
from pipeline.manifest import manifest


def bad_regex(pattern: str) -> str | None:
    """Why `pattern` is no regular expression, or None."""
    try:
        re.compile(pattern)
    except re.error as error:
        return f"not a regular expression: {error}; see docs.python.org/3/library/re.html"
    return None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A small crawl of real web pages, made from packages that ordinary clients fetch."""

    sources: list[str] = option(
        [
            "libreoffice-help-en-us",
            "libreoffice-help-fr",
            "libreoffice-help-de",
            "python-doc",
            "postgresql-doc",
            "debian-handbook",
            "debian-guides",
            "lilypond-doc-fr",
            "fiches-travail",
            "web-pages",
        ],
        "packages to take pages from; pipeline/sources.py lists them",
    )
    files: int = option(4, "WARC files to write", low=1)
    pages_per_source: int = option(4000, "at most so many pages of each source, evenly spread", low=1)
    max_page_bytes: int = option(1_000_000, "leave out longer pages", unit="bytes", low=1000)
    downloads: str = option("downloads", "folder that keeps the downloaded packages")
    seed: int = option(0, "seed of the order of the pages", low=0)


@dataclass(frozen=True, kw_only=True)
class Crawl:
    """The archives to read: your own, or the sample."""

    warcs: list[str] = option([], "WARC files or globs, in manifest order; empty: make the sample crawl")
    warcs_per_job: int = option(2, "WARC files that one job reads, and that make one shard", low=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from (("warcs", problem) for problem in manifest(self.warcs)[1])


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where the batch stages run."""

    workers: int = option(2, "processes of a job on this machine; never more than --cores", low=1)
    scheduler: str | None = option(None, "address of a dask scheduler, such as tcp://host:8786")


@dataclass(frozen=True, kw_only=True)
class Extract:
    """HTML to text, and the language of each page."""

    languages: list[str] = option(["en", "fr", "de"], "languages to keep, as the language model labels them")
    language_model: str | None = option(
        None, "a fastText language identification model; null: lid.176.ftz, fetched", exists=True
    )
    language_min_score: float = option(0.5, "drop pages whose language is less probable", low=0, high=1)
    language_chars: int = option(
        3000, "characters of the text that decide the language; all of it where they leave doubt", low=100
    )
    cascade: bool = option(
        True, "guess the language from the raw page first, and extract only where a wanted one is possible"
    )
    cascade_min_score: float = option(
        0.05, "probability in the guess from which on a wanted language is possible", low=0.001, high=1
    )
    page_seconds: int = option(10, "processor time that a page may take to extract", unit="seconds", low=1)
    min_chars: int = option(200, "drop pages with less text", unit="characters", low=1)
    max_html_bytes: int = option(10_000_000, "drop longer pages", unit="bytes", low=1000)


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Exact deduplication of paragraphs over the whole crawl; the first occurrence stays."""

    normalize: str = option(
        "none",
        "what makes two paragraphs equal: their text, or their text without case, digits and punctuation (CCNet)",
        choices=("none", "ccnet"),
    )
    against: list[str] = option(
        [],
        "indexes of earlier crawls (hashes/index.arrow in their output); what they hold is dropped",
        exists=True,
    )
    min_chars: int = option(200, "drop documents with less text left", unit="characters", low=1)


@dataclass(frozen=True, kw_only=True)
class Positives:
    """What good text looks like in one language."""

    urls: str | None = option(None, "documents of the crawl whose URL matches this regular expression")
    files: list[str] = option([], "text files, one document a line", exists=True)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.urls and not self.files:
            yield "urls", "no positives; give urls (a regular expression) or files"
        if self.urls and (why := bad_regex(self.urls)):
            yield "urls", why


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A fastText classifier of good text against random text of the crawl, for each language."""

    positives: dict[str, Positives] = option(
        {}, "for each language to filter, what good text looks like; other languages are not filtered"
    )
    models: dict[str, str] = option({}, "ready-made fastText models by language, instead of training")
    label: str = option("__label__good", "the label of good text in the models")
    keep_share: float = option(0.9, "share of random documents that pass the threshold", low=0, high=1)
    max_examples: int = option(20_000, "documents of each class to train on", low=10)
    held_out: float = option(0.2, "share of the examples that choose the threshold", low=0.01, high=0.9)
    dimensions: int = option(32, "size of the word vectors", low=1, high=1000)
    epochs: int = option(10, "passes over the examples", low=1)
    learning_rate: float = option(0.2, "of fastText", low=0)
    word_ngrams: int = option(2, "longest word n-gram", low=1, high=5)
    hash_buckets: int = option(200_000, "for the word n-grams", low=1)
    seed: int = option(0, "of the examples drawn and of fastText", low=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        for language in self.positives.keys() & self.models.keys():
            yield f"positives.{language}", "has a ready-made model too; keep one of the two"


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The corpus: Arrow shards for each language and split."""

    validation_share: float = option(
        0.03, "share of documents held out, chosen by the hash of their text", low=0.0, high=0.5
    )
