"""The cascade: a guess from a page's raw bytes whether it can be in a wanted language at all.

In a crawl with 5% of the wanted language, nearly all time would go into extracting pages that are then dropped.
The guess costs a tenth of an extraction. It reads pieces of text between tags (more of paragraphs than of menus,
none of scripts, styles and the like) and drops a page only if every wanted language is improbable and another one
is not; a page that declares a wanted language, or has too little text to tell, is extracted. A few of the words
decide for most pages, all of them for the others. docs/findings/corpus.md has what it misses.
"""

from __future__ import annotations

import html
import re
from typing import Any

from pipeline.common.language_codes import iso_code
from pipeline.extract.charset import SEVEN_BITS
from pipeline.extract.language import Wanted, probabilities

SAMPLE_BYTES, SAMPLE_CHARS = 100_000, 900
STRIDE, SKETCH_WORDS = 5, 10  # every fifth word of the sample is tried first, if these are enough to tell
LONG_WORD, SPACELESS = 12, re.compile(r"\S{1,12}")  # some scripts have no spaces
TOO_SHORT = 100  # characters of a sample from which nothing can be guessed
# What no reader sees, or no text of the page: skipped to its end.
SKIPPED = b"iframe|math|noscript|script|select|style|svg|template|textarea"
RUN = re.compile(rb">([^<]{20,})")  # behind any tag: a pattern with the tag would take twice as long
# The first letters alone, first, are five times as fast.
SKIP = re.compile(rb"<(?=[!imnstIMNST])(!--|(?:" + SKIPPED + rb")(?=[\s/>]))", re.IGNORECASE)
TITLE, PARAGRAPH = re.compile(rb"<title[^<>]{0,500}+>([^<]{20,})"), b"<p"
QUOTED = re.compile(rb"""["']>""")  # "<" and ">" in an attribute
QUOTES = b"\"'"
TO_THE_END = (b"!--", b"script", b"style")  # these have no other end than their own
LEAST_BEST = 0.3  # the probability of the best guess from which on a guess says anything
LANG = re.compile(
    rb"""<html\b[^<>]{0,2000}?[\s"':]lang\s*+=\s*+["']?+\s*+([a-z]{2,3})(?![a-z0-9])""", re.IGNORECASE
)
LANG_BYTES = 2**14


def guess(model: Any, body: bytes, codec: str, wanted: Wanted, min_score: float) -> str | None:
    """The language of a page that is certainly in none of the wanted ones, or None: it must be extracted to tell.

    A wanted language counts as possible with a probability of `min_score` or more.
    """
    if declared_language(body) in wanted.codes:
        return None
    words = sample_words(body, codec)
    text = " ".join(words)
    if len(text) < TOO_SHORT:
        return None
    # Words from the whole sample say more than as many from its beginning. So few words get half the threshold.
    if len(text) > LONG_WORD * len(words):
        words = SPACELESS.findall(text)
    sketch = words[::STRIDE]
    tries = [(" ".join(sketch), min_score / 2)] if len(sketch) >= SKETCH_WORDS else []
    for part, least in (*tries, (text, min_score)):
        likely = probabilities(model, part, 1 + int(1 / least), least)
        best = next(iter(likely), None)
        if best and likely[best] >= LEAST_BEST and likely.keys().isdisjoint(wanted.possible):
            return best
    return None


def declared_language(body: bytes) -> str | None:
    """The ISO code of `<html lang=…>` or `<html xml:lang=…>`, or None.

    >>> declared_language(b'<!doctype html><html class=no-js lang="fr-CA">')
    'fr'
    """
    match = LANG.search(body, 0, LANG_BYTES)
    return iso_code(match[1].decode()) if match else None


def sample_words(body: bytes, codec: str) -> list[str]:
    """Words between the tags of a page, of at most SAMPLE_CHARS characters in all.

    >>> sample_words(b"<p>A caf\\xe9 by the river,\\n in the evening<script>if (evening) { open(cafe) }", "cp1252")
    ['A', 'café', 'by', 'the', 'river,', 'in', 'the', 'evening']
    """
    if codec.startswith(("utf-16", "utf-32", *SEVEN_BITS)):  # '<' is not the byte 0x3C, or not only
        body, codec = body[: 2 * SAMPLE_BYTES].decode(codec, "ignore").encode(), "utf-8"
    # The title; half of the rest from the top, which may be a long menu, and half from the lower half of the page.
    title = TITLE.match(body, max(0, body.find(b"<title", 0, SAMPLE_BYTES)))
    runs = [title[1]] if title else []
    more, end = _runs(body, max(0, body.find(b"<body", 0, SAMPLE_BYTES)), SAMPLE_CHARS // 2)
    runs += more
    middle = body.find(PARAGRAPH, max(end, len(body) // 2))
    runs += _runs(body, end if middle < 0 else middle, SAMPLE_CHARS - sum(map(len, runs)))[0]
    return html.unescape(b" ".join(runs)[:SAMPLE_CHARS].decode(codec, "ignore")).split()


def _runs(body: bytes, start: int, enough: int) -> tuple[list[bytes], int]:
    """Runs of text from a place on, until they have `enough` bytes, and where the last one ends."""
    runs: list[bytes] = []
    size, end = 0, start
    for match in RUN.finditer(body, start, start + SAMPLE_BYTES):
        runs.append(match[1])
        size += len(match[1])
        end = match.end()
        if size >= enough:
            break
    # Nearly all samples have nothing that is to be skipped.
    if SKIP.search(body, start, end) or any(b">" in run for run in runs):
        return _visible_runs(body, start, enough)
    return runs, end


def _visible_runs(body: bytes, start: int, enough: int) -> tuple[list[bytes], int]:
    """The same without what no reader sees, and what is in attributes."""
    runs: list[bytes] = []
    endless: set[bytes] = set()  # elements that have no end any more, which is looked for once
    size, place, seen, stop = 0, start, start, start + SAMPLE_BYTES
    while size < enough and (match := RUN.search(body, place, stop)):
        begin, place = match.span()
        if skipped := SKIP.findall(body, seen, begin + 1):
            end = _end(body, skipped, seen, begin, stop, endless)
            if end > begin:
                place = seen = end
                continue
        seen, run = begin, match[1]
        if b">" in run:
            # The ">" before it was in an attribute, unless it came behind a quote.
            tag = b"" if body[begin - 1] in QUOTES else body[max(0, body.rfind(b"<", 0, begin)) : begin]
            run = QUOTED.split(_behind_quotes(tag, run))[-1]
        runs.append(run)
        size += len(run)
    return runs, place


def _end(body: bytes, names: list[bytes], seen: int, start: int, stop: int, endless: set[bytes]) -> int:
    """Where the last of the skipped elements ends that begin between two places; one inside another is none.

    An element ends as it begins, in capitals or not.
    """
    end = seen
    if names.count(names[0]) == len(names):  # only the last of them may be open still
        names, end = names[:1], body.rfind(b"<" + names[0], seen, start)
    for name in names:
        place = body.find(b"<" + name, end, start)
        if place < 0:
            continue
        place += len(name)
        end = -1 if name in endless else body.find(b"-->" if name == b"!--" else b"</" + name, place, stop)
        if end < 0:
            endless.add(name)
            end = stop if name.lower() in TO_THE_END else place
        if end > start:
            break
    return end


def _behind_quotes(tag: bytes, run: bytes) -> bytes:
    """The text behind the ">" of a tag; where this is in the quotes of an attribute, what is behind the tag."""
    for quote in (b'"', b"'"):
        if count := tag.count(quote):
            return run if count % 2 == 0 else run.partition(quote)[2].partition(b">")[2]
    return run
