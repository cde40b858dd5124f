"""How many tokens each domain has, and how many bytes a token covers in each language.

A language whose text takes twice the tokens takes twice the work, in training as in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from pipeline.workflow.layout import Layout
from train.data.rows import open_rows
from train.report.words import counted, joined


@dataclass(frozen=True)
class TokenCount:
    """A split of a domain: its documents, their UTF-8 bytes and tokens, and the tokens that came into rows.

    rows: None where the file of the rows is gone.
    """

    domain: str
    language: str
    split: str
    documents: int
    bytes: int
    tokens: int
    tokens_in_rows: int
    rows: int | None


def read_domains(domains: list[str]) -> dict[str, str]:
    """By domain its language, of DOMAIN=LANGUAGE. Raises StageError on one that says no language."""
    languages = {}
    for named in domains:
        domain, _, languages[domain] = named.partition("=")
        if not languages[domain]:
            raise StageError(f"--domains {named}: expected DOMAIN=LANGUAGE, such as en-held=en")
    return languages


def token_counts(out: Layout, languages: Mapping[str, str]) -> list[TokenCount]:
    """Of domains, by their languages, the splits that were tokenized. Raises StageError on a damaged ledger."""
    counts = []
    for domain, language in languages.items():
        for split in ("train", "validation"):
            if Path(path := out.ledger(out.rows(domain, split))).exists():
                ledger = read_json(path, "run `tokenize` again")
                numbers = {name: ledger[name] for name in ("documents", "bytes", "tokens", "tokens_in_rows")}
                rows = _rows(out.rows(domain, split))
                counts.append(TokenCount(domain, language, split, rows=rows, **numbers))
    return counts


def _rows(path: str) -> int | None:
    return len(open_rows(path)) if Path(path).exists() else None


def bytes_per_token(counts: Sequence[TokenCount]) -> dict[str, float]:
    """By language, over all its domains."""
    by_language: dict[str, list[TokenCount]] = {}
    for count in counts:
        by_language.setdefault(count.language, []).append(count)
    return {
        language: sum(count.bytes for count in own) / sum(count.tokens for count in own)
        for language, own in by_language.items()
    }


def about_tokens(counts: Sequence[TokenCount], forgetting: str, learned: Sequence[str]) -> list[str]:
    """Sentences: the tokens to train on, and what the languages of the domains learned cost beside the old one."""
    named = [
        f"{counted(each.tokens_in_rows)} of {each.domain} ({each.language})"
        for each in counts
        if each.split == "train"
    ]
    sentences = [f"Tokens to train on: {joined(named)}."] if named else []
    language_of = {each.domain: each.language for each in counts}
    covered, old = bytes_per_token(counts), language_of.get(forgetting)
    for new in dict.fromkeys(language_of.get(domain) for domain in learned):
        if old and new and old != new:
            times = covered[old] / covered[new]
            sentences.append(
                f"A token covers {covered[old]:.2f} bytes of {old} and {covered[new]:.2f} of {new}: as much text "
                f"takes {times:.2f} times the tokens in {new}, which cost {times:.2f} times as much to train on, "
                "to read and to write."
            )
    return sentences
