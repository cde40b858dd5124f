"""Options of what is crawled: the sample, archives of one's own, CommonCrawl, plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.common.config import MOST_SEED, bad_language, option
from pipeline.common.language_codes import three_letters
from pipeline.crawl.manifest import manifest
from pipeline.crawl.text_files import PLAIN, TEXT_KINDS, kind_of, text_files
from pipeline.network.urls import is_url, url_problem

COMMONCRAWL = "https://data.commoncrawl.org/"
MOST_TRANSFERS = 10


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
        "packages to take pages from; pipeline/crawl/catalogue.py lists them",
    )
    files: int = option(4, "WARC files to write", low=1, high=10**5)
    pages_per_source: int = option(4000, "at most so many pages of each source, evenly spread", low=1)
    max_page_bytes: int = option(1_000_000, "leave out longer pages", unit="bytes", low=1000)
    downloads: str = option("downloads", "folder that keeps the downloaded packages", path=True)
    seed: int = option(0, "seed of the order of the pages", low=0, high=MOST_SEED)

    def problems(self) -> Iterator[tuple[str, str]]:
        from pipeline.crawl.catalogue import SOURCES

        for number, name in enumerate(self.sources):
            if name not in SOURCES:
                yield f"sources[{number}]", f"no source {name!r}; there are {', '.join(SOURCES)}"


@dataclass(frozen=True, kw_only=True)
class CommonCrawl:
    """Whole files of one of CommonCrawl's crawls."""

    crawl: str = option(doc="name of the crawl, such as CC-MAIN-2026-30")
    files: int | str = option(10, "how many of its files to read, or all; more of them begin with the same", low=1)
    kind: str = option("warc", "pages as crawled, or CommonCrawl's own text of them", choices=("warc", "wet"))
    seed: int = option(0, "of the choice and the order of the files", low=0, high=MOST_SEED)
    base_url: str = option(COMMONCRAWL, "where crawl-data/ lies: https://, or s3://commoncrawl/ inside AWS")

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.files, str) and self.files != "all":
            yield "files", f"{self.files!r}; give a number or all"
        yield from _crawl_problems(self.crawl, self.base_url)


@dataclass(frozen=True, kw_only=True)
class Index:
    """The records of a crawl that its columnar index says are wanted, fetched one by one."""

    crawl: str = option(doc="name of the crawl, such as CC-MAIN-2026-30")
    languages: list[str] = option(doc="languages as the index names them: three letters (ISO 639-3), such as fra")
    match: str = option(
        "first",
        "the language with most text in the page must be wanted, or any of up to three",
        choices=("first", "any"),
    )
    mimes: list[str] = option(["text/html", "application/xhtml+xml"], "detected media types; empty: all")
    tlds: list[str] = option([], "top-level domains, such as fr; empty: all")
    hosts: list[str] = option([], "host names or registered domains, such as example.fr; empty: all")
    limit: int = option(0, "records at most, from whole files of the crawl in a random order; 0: all", low=0)
    seed: int = option(0, "of the order of the files", low=0, high=MOST_SEED)
    files: int = option(10, "WARC files to write, about equal in size", low=1, high=10**5)
    gap: int = option(2**17, "records nearer than this come in one request", unit="bytes", low=0, high=2**26)
    max_range: int = option(2**25, "longest request for several records", unit="bytes", low=2**16, high=2**27)
    tables: list[str] = option([], "Parquet files of the index (globs, URLs); empty: those of the crawl")
    base_url: str = option(COMMONCRAWL, "where crawl-data/ and cc-index/ lie")

    def problems(self) -> Iterator[tuple[str, str]]:
        for number, language in enumerate(self.languages):
            if (code := three_letters(language)) != language:
                cure = f"did you mean {code}?" if code else "such as fra"
                yield (
                    f"languages[{number}]",
                    f"{language!r}; the index names languages by three letters (ISO 639-3): {cure}",
                )
        if not self.languages:
            yield "languages", "no language; crawl.commoncrawl reads whole files"
        yield from _crawl_problems(self.crawl, self.base_url)


def _crawl_problems(crawl: str, base_url: str) -> Iterator[tuple[str, str]]:
    if not re.fullmatch(r"[\w-]+", crawl, re.ASCII):
        yield "crawl", f"{crawl!r} is no name of a crawl; they look like CC-MAIN-2026-30"
    if problem := url_problem(base_url):
        yield "base_url", problem


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Plain text, a document a file, row or line, that is to be deduplicated and filtered with the pages."""

    files: list[str] = option(
        doc=f"files ({', '.join(TEXT_KINDS)}; .gz or .zst), folders with all such files in them, or of "
        "datasets.save_to_disk: paths, globs or URLs; hf://datasets/… too"
    )
    documents: str = option(
        "files",
        f"what is a document in a {PLAIN}: the whole file, or each of its blocks, which empty lines part",
        choices=("files", "blocks"),
    )
    text: str = option("text", "column (or key) of the text")
    url: str = option("url", "column (or key) of the URL; where there is none, file and row stand for it")
    language: str | None = option(None, "the language of all of it; null: identified for each document")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.language and (problem := bad_language(self.language)):
            yield "language", problem
        if len({is_url(name) for name in self.files}) > 1:
            yield "files", "local files and URLs in one entry; make two entries of them"
        yield from (("files", problem) for problem in text_files(self.files).problems)


@dataclass(frozen=True, kw_only=True)
class Crawl:
    """The archives to read: your own, CommonCrawl's, or the sample."""

    warcs: list[str] = option(
        [],
        "WARC files: globs, URLs (https, http, s3), or lists (.txt, a path or URL a line), in manifest order; "
        "with nothing else given either: make the sample crawl",
    )
    warcs_per_job: int | None = option(
        None,
        "WARC files that one job reads, and that make one shard; null: 2, or so many that an entry of `warcs` "
        "makes 256 jobs at most",
        low=1,
    )
    commoncrawl: CommonCrawl | None = option(None, "whole files of CommonCrawl, after `warcs`")
    index: Index | None = option(None, "single records of CommonCrawl, after those")
    texts: list[Texts] = option([], "plain text, after those")
    sample: bool = option(False, "the sample crawl too, before all of those")
    connections: int = option(4, "transfers at once, over all jobs of this machine", low=1, high=MOST_TRANSFERS)
    cache: str = option("downloads/crawl", "folder of fetched files and of transfers that can go on", path=True)
    cache_gb: int = option(20, "fetched files kept there for later runs; 0: none", unit="GB", low=0)

    @property
    def given(self) -> bool:
        return bool(self.warcs or self.commoncrawl or self.index or self.texts)

    @property
    def has_sample(self) -> bool:
        return self.sample or not self.given

    def problems(self) -> Iterator[tuple[str, str]]:
        archives = [name for name in self.warcs if kind_of(name) in (None, PLAIN)]
        for name in self.warcs:
            if name not in archives:
                yield "warcs", f"{name}: texts, and no archives; name them in crawl.texts"
        yield from (("warcs", problem) for problem in manifest(archives)[1])
