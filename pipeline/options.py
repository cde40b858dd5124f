"""Every option of the corpus wing: name, type, default, unit and what it means. One class, one section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.config import option
from pipeline.crawl.manifest import manifest
from pipeline.network.urls import is_url, url_problem

COMMONCRAWL = "https://data.commoncrawl.org/"
TEXT_KINDS = (".parquet", ".jsonl", ".json", ".ndjson")


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
        "packages to take pages from; pipeline/crawl/catalogue.py lists them",
    )
    files: int = option(4, "WARC files to write", low=1)
    pages_per_source: int = option(4000, "at most so many pages of each source, evenly spread", low=1)
    max_page_bytes: int = option(1_000_000, "leave out longer pages", unit="bytes", low=1000)
    downloads: str = option("downloads", "folder that keeps the downloaded packages")
    seed: int = option(0, "seed of the order of the pages", low=0)


@dataclass(frozen=True, kw_only=True)
class CommonCrawl:
    """Whole files of one of CommonCrawl's crawls."""

    crawl: str = option(doc="name of the crawl, such as CC-MAIN-2026-30")
    files: int | str = option(10, "how many of its files to read, or all; more of them begin with the same", low=1)
    kind: str = option("warc", "pages as crawled, or CommonCrawl's own text of them", choices=("warc", "wet"))
    seed: int = option(0, "of the choice and the order of the files", low=0)
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
    seed: int = option(0, "of the order of the files", low=0)
    files: int = option(10, "WARC files to write, about equal in size", low=1)
    gap: int = option(2**17, "records nearer than this come in one request", unit="bytes", low=0, high=2**26)
    max_range: int = option(2**25, "longest request for several records", unit="bytes", low=2**16, high=2**27)
    tables: list[str] = option([], "Parquet files of the index (globs, URLs); empty: those of the crawl")
    base_url: str = option(COMMONCRAWL, "where crawl-data/ and cc-index/ lie")

    def problems(self) -> Iterator[tuple[str, str]]:
        for language in self.languages:
            if not re.fullmatch(r"[a-z]{3}", language):
                yield "languages", f"{language!r}; the index names languages by three letters (ISO 639-3): fra"
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
    """Plain text, a document a row or line, that is to be deduplicated and filtered with the pages."""

    files: list[str] = option(
        doc=f"files ({', '.join(TEXT_KINDS)}, .gz or .zst): globs or URLs; hf://datasets/… too"
    )
    text: str = option("text", "column (or key) of the text")
    url: str = option("url", "column (or key) of the URL; where there is none, file and row stand for it")
    language: str | None = option(None, "the language of all of it; null: identified for each document")

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.files:
            if not re.search(rf"({'|'.join(map(re.escape, TEXT_KINDS))})(\.gz|\.zst)?$", name):
                yield "files", f"{name}: not a known kind of file; known are {', '.join(TEXT_KINDS)} (.gz, .zst)"
        if len({is_url(name) for name in self.files}) > 1:
            yield "files", "local files and URLs in one entry; make two entries of them"
        yield from (("files", problem) for problem in manifest(self.files)[1])


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
    connections: int = option(4, "transfers at once, over all jobs of this machine", low=1, high=10)
    cache: str = option("downloads/crawl", "folder of fetched files and of transfers that can go on")
    cache_gb: int = option(20, "fetched files kept there for later runs; 0: none", unit="GB", low=0)

    @property
    def given(self) -> bool:
        return bool(self.warcs or self.commoncrawl or self.index or self.texts)

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
        1000, "characters of the text that decide the language; all of it where they leave doubt", low=100
    )
    cascade: bool = option(
        True, "guess the language from the raw page first, and extract only where a wanted one is possible"
    )
    cascade_min_score: float = option(
        0.02, "probability in the guess from which on a wanted language is possible", low=0.001, high=1
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


# The rules of pipeline/corpus/filters.py by their source; a config names groups or single rules.
RULE_GROUPS: dict[str, tuple[str, ...]] = {
    "gopher_quality": (
        *("gopher_word_count", "gopher_word_length", "gopher_hashes", "gopher_ellipses", "gopher_bullet_lines"),
        *("gopher_ellipsis_lines", "gopher_alphabetic_words", "gopher_stop_words"),
    ),
    "gopher_repetition": (
        *("gopher_repeated_lines", "gopher_repeated_paragraphs"),
        *("gopher_repeated_lines_chars", "gopher_repeated_paragraphs_chars"),
        *(f"gopher_top_{size}gram" for size in (2, 3, 4)),
        *(f"gopher_repeated_{size}grams" for size in (5, 6, 7, 8, 9, 10)),
    ),
    "c4": ("c4_terminal_punctuation", "c4_sentences", "c4_lorem_ipsum", "c4_curly_bracket"),
    "fineweb": ("fineweb_line_punctuation", "fineweb_repeated_lines", "fineweb_short_lines"),
}
RULE_NAMES = tuple(name for names in RULE_GROUPS.values() for name in names)
SET_KINDS = (".json", ".jsonl", ".txt", ".arrow", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Drop documents that contain an n-gram of words of an evaluation set."""

    sets: dict[str, str] = option(
        {}, f"files of evaluation sets by name ({', '.join(SET_KINDS)}); every text in them counts"
    )
    ngram: int = option(13, "words in a row that make a document contaminated", unit="words", low=5, high=100)

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, path in self.sets.items():
            if not re.fullmatch(r"[\w.-]+", name):
                yield f"sets.{name}", "a name is made of letters, digits, '_', '.' and '-'"
            if Path(path).suffix not in SET_KINDS:
                yield f"sets.{name}", f"{path}: not a known kind of file; known are {', '.join(SET_KINDS)}"
            elif not Path(path).is_file():
                yield f"sets.{name}", f"no such file: {path}; give a path that exists, relative to where you run"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Heuristic filters of documents. The stage runs where anything is configured here."""

    rules: list[str] = option(
        [],
        "rules with published thresholds, by group or one by one; pipeline/corpus/filters.py has them",
        choices=(*RULE_GROUPS, *RULE_NAMES),
    )
    min_words: int = option(0, "drop documents with fewer words", unit="words", low=0)
    min_chars: int = option(0, "drop documents with less text", unit="characters", low=0)
    url_blocklists: list[str] = option(
        [], "files of domains, one a line, .gz or not: drop documents from these and below them", exists=True
    )
    decontaminate: Decontaminate = option(Decontaminate, "evaluation sets to keep out of the corpus")

    @property
    def active(self) -> bool:
        return bool(
            self.rules or self.min_words or self.min_chars or self.url_blocklists or self.decontaminate.sets
        )

    @property
    def rule_names(self) -> list[str]:
        """The single rules, each once, in the order named."""
        return list(dict.fromkeys(name for rule in self.rules for name in RULE_GROUPS.get(rule, (rule,))))


@dataclass(frozen=True, kw_only=True)
class Near:
    """Near-duplicate documents: MinHash over n-grams of words; of near-duplicates the first stays."""

    enabled: bool = option(False, "whether the stage runs")
    threshold: float = option(
        0.8, "drop a document whose estimated Jaccard similarity with an earlier kept one is this", low=0.6, high=1
    )
    ngram: int = option(5, "words of a shingle", unit="words", low=1, high=100)
    permutations: int = option(128, "hashes of a signature, 4 bytes each", low=16, high=1024)
    seed: int = option(0, "of the permutations", low=0, high=2**32 - 1)


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
    keep_share: float | None = option(
        None,
        "share of random documents that pass the threshold; 0.9, where min_precision is not given either",
        low=0,
        high=1,
    )
    min_precision: float | None = option(
        None,
        "choose instead the lowest threshold with this precision on held-out text, good against random; "
        "good documents among the random ones count against it, so 1 may be out of reach",
        low=0.5,
        high=1,
    )
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
        if self.min_precision is not None and self.keep_share is not None:
            yield (
                "min_precision",
                "keep_share is given too; one of the two chooses the threshold: remove the other",
            )
        if self.min_precision is not None and self.models:
            yield (
                "min_precision",
                f"the ready-made model of {', '.join(self.models)} has no positives to measure precision with; "
                "use keep_share",
            )

    @property
    def kept_share(self) -> float:
        """`keep_share`, or its default."""
        return 0.9 if self.keep_share is None else self.keep_share


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The corpus: Arrow shards for each language and split."""

    validation_share: float = option(
        0.03, "share of documents held out, chosen by the hash of their text", low=0.0, high=0.5
    )


@dataclass(frozen=True, kw_only=True)
class Publish:
    """What is published of a corpus."""

    recipe: bool = option(False, "the places and paragraphs of each document in the archives instead of its text")
    license: str = option("other", "licence, as the hub names them, of all but the text, which keeps its own")
