"""Options of the stages between pages and shards. One class, one section of the config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.config import MOST_GB, MOST_SEED, bad_name, bad_regex, option


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Exact deduplication of paragraphs over the whole crawl; the first occurrence stays."""

    normalize: str = option(
        "none",
        "what makes two paragraphs equal: their text, or their text in one case, each digit a 0, without "
        "punctuation (CCNet)",
        choices=("none", "ccnet"),
    )
    against: list[str] = option(
        [],
        "indexes of earlier crawls (hashes/index.arrow in their output); what they hold is dropped",
        exists=True,
    )
    min_paragraph_chars: int = option(
        0, "a shorter paragraph is no duplicate, and stays (Dolma)", unit="characters", low=0
    )
    block_new_share: float | None = option(
        None,
        "judge blocks, which empty lines part, instead of paragraphs: a block stays whole if more of its bytes "
        "than this share are in new paragraphs, else it goes; 0.2 in Dactory",
        low=0,
        high=0.99,
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
        {}, f"files of evaluation sets by name ({', '.join(SET_KINDS)}); every text in them counts", path=True
    )
    ngram: int = option(
        13,
        "words in a row that make a document contaminated; where no spaces part them, as many characters as these",
        unit="words",
        low=5,
        high=100,
    )
    sets_gb: int = option(2, "memory that reading the sets may take", unit="GiB", low=1, high=MOST_GB)

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, path in self.sets.items():
            if problem := bad_name(name):
                yield f"sets.{name}", problem
            if Path(path).suffix not in SET_KINDS:
                yield f"sets.{name}", f"{path}: not a known kind of file; known are {', '.join(SET_KINDS)}"
            elif not Path(path).is_file():
                yield f"sets.{name}", f"no such file: {path}; give a path that exists, relative to {Path.cwd()}"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Heuristic filters of documents. The stage runs where anything is configured here."""

    rules: list[str] = option(
        [],
        "rules with published thresholds, by group or one by one; pipeline/corpus/filters.py has them",
        choices=(*RULE_GROUPS, *RULE_NAMES),
    )
    min_words: int = option(
        0,
        "drop documents with fewer words; where no spaces part them, as many as the characters make up",
        unit="words",
        low=0,
    )
    min_chars: int = option(0, "drop documents with less text", unit="characters", low=0)
    url_blocklists: list[str] = option(
        [], "files of domains, one a line, .gz or not: drop documents from these and below them", exists=True
    )
    max_blocklist_chars: int = option(
        200_000_000, "refuse block lists that are longer when unpacked", unit="characters", low=1
    )
    decontaminate: Decontaminate = option(Decontaminate(), "evaluation sets to keep out of the corpus")

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
    seed: int = option(0, "of the permutations", low=0, high=MOST_SEED)


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
    models: dict[str, str] = option({}, "ready-made fastText models by language, instead of training", path=True)
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
    epochs: int = option(10, "passes over the examples", low=1, high=10**6)
    learning_rate: float = option(0.2, "of fastText", above=0, high=10)
    word_ngrams: int = option(2, "longest word n-gram", low=1, high=5)
    hash_buckets: int = option(200_000, "for the word n-grams", low=1, high=10**8)
    seed: int = option(0, "of the examples drawn and of fastText", low=0, high=2**31 - 1)  # fastText's are signed

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
        0.03,
        "share of documents held out, chosen by the hash of their text; one, where that is none of a language's",
        low=0.0,
        high=0.5,
    )
