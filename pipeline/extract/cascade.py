"""The cascade: a guess from a page's raw bytes whether it can be in a wanted language at all.

In a crawl with 5% of the wanted language, nearly all time would go into extracting pages that are then dropped.
The guess costs a tenth of an extraction. It reads pieces of text between tags (more of paragraphs than of menus,
none of scripts) and drops a page only if every wanted language is improbable; a page that declares a wanted
language, or has too little text to tell, is extracted. A few of the words decide for most pages, all of them for
the others. docs/findings/corpus.md has what it misses.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from typing import Any

from pipeline.extract.language import probabilities

SAMPLE_BYTES, SAMPLE_CHARS = 100_000, 1000
STRIDE, SKETCH_WORDS = 6, 10  # every sixth word of the sample is tried first, if these are enough to tell
SKETCH_WORD = re.compile(r"\S{1,12}")  # at most 12 characters: some scripts have no spaces
TOO_SHORT = 100  # characters of a sample from which nothing can be guessed
RUN = re.compile(rb">([^<]{20,})")  # behind any tag: a pattern with the tag would take twice as long
NO_TEXT = (b"script", b"style", b"!--")
LANG = re.compile(rb"""<html[^<>]{0,500}?\blang\s*+=\s*+["']?+([a-z]{2,3})\b""", re.IGNORECASE)
LANG_BYTES = 4096


def guess(model: Any, body: bytes, codec: str, wanted: Collection[str], min_score: float) -> str | None:
    """The language of a page that is certainly in none of the wanted ones, or None: it must be extracted to tell.

    A wanted language counts as possible with a probability of `min_score` or more.
    """
    if declared_language(body) in wanted:
        return None
    text = sample_text(body, codec)
    if len(text) < TOO_SHORT:
        return None
    # Words from the whole sample say more than as many from its beginning. So few words get half the threshold.
    sketch = SKETCH_WORD.findall(text)[::STRIDE]
    tries = [(" ".join(sketch), min_score / 2)] if len(sketch) >= SKETCH_WORDS else []
    for part, least in (*tries, (text, min_score)):
        likely = probabilities(model, part, 1 + int(1 / least), least)
        if likely and likely.keys().isdisjoint(wanted):
            return next(iter(likely))
    return None


def declared_language(body: bytes) -> str | None:
    """The primary language of `<html lang=…>` in lower case, or None.

    >>> declared_language(b'<!doctype html><html lang="fr-CA">')
    'fr'
    """
    match = LANG.search(body, 0, LANG_BYTES)
    return match[1].decode().lower() if match else None


def sample_text(body: bytes, codec: str) -> str:
    """At most SAMPLE_CHARS characters of text between the tags of a page, with single spaces.

    >>> sample_text(b"<p>A caf\\xe9 by the river,\\n in the evening<script>if (evening) { open(cafe) }", "cp1252")
    'A café by the river, in the evening'
    """
    if codec.startswith(("utf-16", "utf-32", "iso2022")):  # '<' is not the byte 0x3C, or not only
        body, codec = body[:SAMPLE_BYTES].decode(codec, "ignore").encode(), "utf-8"
    runs, size = [], 0
    for match in RUN.finditer(body, 0, SAMPLE_BYTES):
        tag = body.rfind(b"<", 0, match.start()) + 1
        if not tag or body[tag : tag + 6].lower().startswith(NO_TEXT):
            continue
        runs.append(match[1])
        size += len(match[1])
        if size >= SAMPLE_CHARS:
            break
    text = b" ".join(runs)[:SAMPLE_CHARS].decode(codec, "ignore")
    return " ".join(html.unescape(text).split())
