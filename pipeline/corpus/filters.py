"""Heuristic filters: named rules with published thresholds, minimum length, URL block lists, decontamination.

One pass over the documents; a document that breaks a rule is dropped under the name of the first one it breaks.
Every rule judges the whole document and changes no text. The rules are published for pages as extracted; here
they follow the paragraph deduplication, so that rules about equal lines find little where it has run.

Sources: Gopher (Rae et al. 2021, appendix A.1 and table A1); C4 (Raffel et al. 2020, section 2.2, with the
numbers of its released code); FineWeb (Penedo et al. 2024, section 3.6).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pipeline.common.hosts import LONGEST_HOST, host_of, with_parents
from pipeline.common.language_codes import iso_code
from pipeline.common.lines import read_lines
from pipeline.corpus import measures
from pipeline.corpus.decontaminate import NgramIndex, contaminated_reason, find_set, load_index
from pipeline.corpus.measures import WORD_LENGTHS, Document
from pipeline.corpus.options import Filter
from pipeline.corpus.select import Drop, select_documents

LONGEST_LINE = 2**16  # characters, of a block list


# Rules ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A document is kept where `least <= measure <= most` and `over < measure < under`; None: no such bound."""

    measure: Callable[[Document], float]
    doc: str
    least: float | None = None
    most: float | None = None
    over: float | None = None
    under: float | None = None
    languages: tuple[str, ...] = ()  # ISO codes: the rule is for these alone; empty: for all

    def broken_by(self, document: Document) -> bool:
        """Whether the document is in one of the rule's languages and out of its bounds."""
        return self.value_out_of_bounds(document) is not None

    def value_out_of_bounds(self, document: Document) -> float | None:
        """What the rule measures of a document that breaks it; else None."""
        if self.languages and iso_code(document.language) not in self.languages:
            return None
        value = self.measure(document)
        is_out = (
            (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.over is not None and value <= self.over)
            or (self.under is not None and value >= self.under)
        )
        return value if is_out else None


RULES = {
    "gopher_word_count": Rule(measure=measures.word_count, least=50, most=100_000, doc="50 to 100,000 words"),
    "gopher_word_length": Rule(
        measure=measures.mean_word_length,
        least=WORD_LENGTHS[0],
        most=WORD_LENGTHS[1],
        doc="mean word length 3 to 10",
    ),
    "gopher_hashes": Rule(measure=partial(measures.symbol_ratio, symbols=("#",)), most=0.1, doc="# per word"),
    "gopher_ellipses": Rule(
        measure=partial(measures.symbol_ratio, symbols=measures.ELLIPSES), most=0.1, doc="ellipses per word"
    ),
    "gopher_bullet_lines": Rule(
        measure=measures.bullet_lines, most=0.9, doc="share of lines that begin with a bullet"
    ),
    "gopher_ellipsis_lines": Rule(
        measure=measures.ellipsis_lines, most=0.3, doc="share of lines that end in an ellipsis"
    ),
    "gopher_alphabetic_words": Rule(
        measure=measures.alphabetic_words, least=0.8, doc="share of words with a letter"
    ),
    "gopher_stop_words": Rule(
        measure=measures.stop_words,
        least=2,
        languages=("en",),
        doc="different words of eight; English documents only",
    ),
    **{
        f"gopher_repeated_{parts}{'' if unit == 'number' else '_chars'}": Rule(
            measure=partial(measures.repeated, parts=parts, unit=unit),
            most=most,
            doc=f"share of {parts} that came before",
        )
        for unit, most in (("number", 0.3), ("characters", 0.2))
        for parts in ("lines", "paragraphs")
    },
    **{
        f"gopher_top_{size}gram": Rule(
            measure=partial(measures.top_ngram, size=size), most=most, doc="share of the most frequent n-gram"
        )
        for size, most in ((2, 0.2), (3, 0.18), (4, 0.16))
    },
    **{
        f"gopher_repeated_{size}grams": Rule(
            measure=partial(measures.repeated_ngrams, size=size),
            most=most,
            doc="share of n-grams that came before",
        )
        for size, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    },
    # C4 removes lines, then pages; here the text stays whole, and is dropped where C4 would leave too little.
    "c4_terminal_punctuation": Rule(
        measure=lambda document: len(document.c4_lines), least=1, doc="lines of 5 words with a terminal mark"
    ),
    "c4_sentences": Rule(measure=measures.c4_sentences, least=3, doc="sentences in such lines"),
    "c4_lorem_ipsum": Rule(
        measure=partial(measures.occurrences, phrase="lorem ipsum"), most=0, doc="'lorem ipsum'"
    ),
    "c4_curly_bracket": Rule(measure=partial(measures.occurrences, phrase="{"), most=0, doc="curly brackets"),
    "fineweb_line_punctuation": Rule(
        measure=measures.punctuated_lines, over=0.12, doc="share of lines with a terminal mark"
    ),
    "fineweb_repeated_lines": Rule(
        measure=partial(measures.repeated, parts="lines", unit="characters"),
        under=0.1,
        doc="share of lines that came before",
    ),
    "fineweb_short_lines": Rule(
        measure=measures.short_lines, under=0.67, doc="share of lines of 30 characters or fewer"
    ),
}


# The stage -----------------------------------------------------------------------------------------


def filter_documents(
    options: Filter,
    documents: str,
    contaminated: str | None,
    output: str,
    ledger: str,
    decisions: str | None = None,
) -> None:
    """Write the documents of a file that break no rule, and the ledger with the reasons of the others."""
    checks = list(_checks(options, contaminated))

    def reason(_: int, url: str, text: str, language: str) -> Drop | None:
        document = Document(url, text, language)
        return next((why for check in checks if (why := check(document))), None)

    select_documents("filter", options, documents, reason, output, ledger, decisions)


def _checks(options: Filter, contaminated: str | None) -> Iterator[Callable[[Document], Drop | None]]:
    """Functions from a document to the reason it is dropped for, in the order they are asked, cheap ones first."""
    if options.url_blocklists:
        domains = read_domains(options)
        yield lambda document: Drop("blocked_url") if is_blocked(document.url, domains) else None
    if options.min_chars:
        yield partial(_fewer, "few_characters", lambda document: len(document.text), options.min_chars)
    if options.min_words:
        yield partial(_fewer, "few_words", lambda document: document.word_count, options.min_words)
    for name in options.rule_names:
        yield partial(_broken, name)
    if contaminated:
        yield partial(_contaminated, load_index(contaminated))


def _fewer(reason: str, measure: Callable[[Document], float], least: int, document: Document) -> Drop | None:
    value = measure(document)
    return Drop(reason, value) if value < least else None


def _broken(name: str, document: Document) -> Drop | None:
    value = RULES[name].value_out_of_bounds(document)
    return None if value is None else Drop(name, value)


def _contaminated(index: NgramIndex, document: Document) -> Drop | None:
    name = find_set(index, document.hashes)
    return Drop(contaminated_reason(name)) if name else None


def read_domains(options: Filter) -> frozenset[str]:
    """The domains in block lists: one a line, `#` begins a comment; files named .gz are unpacked.

    A longer name than a host has is left out, with a warning. Raises StageError for a list without an end.
    """
    domains = set()
    for path in options.url_blocklists:
        too_long = 0
        key = "filter.max_blocklist_chars"
        for line in read_lines(path, "replace", LONGEST_LINE, options.max_blocklist_chars, key):
            domain = line.partition("#")[0].strip().lower().strip(".")
            if len(domain) > LONGEST_HOST:
                too_long += 1
            elif domain:
                domains.add(domain)
        if too_long:
            logging.warning("%s: %s of its lines are no hosts, and are left out", path, f"{too_long:,}")
    return frozenset(domains)


def is_blocked(url: str, domains: frozenset[str]) -> bool:
    """Whether the host of a URL is one of the domains, or below one of them.

    >>> is_blocked("https://www.bad.example/page", frozenset({"bad.example"}))
    True
    """
    return any(host in domains for host in with_parents(host_of(url).strip(".")))
