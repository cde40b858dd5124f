"""How right a text is in a charset: whether its letters beyond ASCII are those of one language.

Bytes of one charset are nearly always bytes of another too. Read in the wrong one they give letters that no
language has together: of French, č and ŕ beside é; of Polish, ¹ and ³ in the middle of words. Source of the
alphabets: the orthographies, as in the main exemplar characters of Unicode's CLDR; of Chinese, Japanese and
Korean, the common characters of the national standards.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

LATIN = (
    "àâæçéèêëîïôœùûüÿ",  # French
    "äöüßé",  # German
    "áéíóúüñ",  # Spanish, Galician, Irish
    "áâãàçéêíóôõúü",  # Portuguese
    "àèéìíîòóùú",  # Italian, Gaelic
    "àçèéíïòóúü",  # Catalan, Occitan
    "éëèïöüêç",  # Dutch, Albanian, Luxembourgish
    "åäöéü",  # Swedish, Finnish
    "æøåéóòôä",  # Danish, Norwegian
    "áðéíóúýþæöø",  # Icelandic, Faroese
    "âêîôûŵŷ",  # Welsh
    "âêîôûùüñé",  # Breton
    "äöõüšž",  # Estonian
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíĺľňóôŕšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "ăâîșşțţ",  # Romanian
    "čćđšž",  # Slovene, Croatian, Serbian, Bosnian
    "çğıİöşüâîû",  # Turkish
    "ąčęėįšųūž",  # Lithuanian
    "āčēģīķļņōŗšūž",  # Latvian
    "ċġħżàèìòù",  # Maltese
    "ĉĝĥĵŝŭ",  # Esperanto
    "ăâđêôơưàãèéìíòóõùúýĩũ\u0300\u0301\u0303\u0309\u0323",  # Vietnamese
)
CYRILLIC = (
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",  # Russian, Bulgarian
    "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",  # Ukrainian
    "абвгдеёжзійклмнопрстуўфхцчшыьэюя",  # Belarusian
    "абвгдђжзијклљмнњопрстћуфхцчџшѓѕќе",  # Serbian, Macedonian
)
OTHERS = (  # first and last letter: Greek, Hebrew, Arabic, Thai
    ("Ά", "ώ"), ("\u05b0", "ת"), ("ء", "ے"), ("ก", "๛")
)  # fmt: skip
# (codec, rows of the most common characters): Chinese in short and in long characters, Japanese, Korean.
STANDARDS = (
    ("gb2312", range(0xB0, 0xD8)),
    ("big5", range(0xA4, 0xC7)),
    ("euc_jp", (0xA1, 0xA4, 0xA5, *range(0xB0, 0xD0))),
    ("euc_kr", range(0xB0, 0xC9)),
)
# Signs beyond ASCII that text has. Others are what bytes of letters look like in the wrong charset.
SIGNS = frozenset("\xa0\xad°©®§€£¥™·•´×ªº¡¿\u200b\u200c\u200d\u200e\u200f\ufeff№→←↑↓►▼▲■□●○★☆♪")
NEUTRAL = frozenset(("Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Nd", "Zs", "Nl"))
ASCII = re.compile(r"[\x00-\x7f]++")
LOWER_UPPER, UPPER_LOWER = re.compile(r"[а-џ][Ѐ-Я]"), re.compile(r"\b[Ѐ-Я][а-џ]")
MIXED = re.compile("[A-Za-z][\u0370-\u06ff]|[\u0370-\u06ff][A-Za-z]")  # Greek, Cyrillic, Hebrew, Arabic
MIXED_SHARE = 0.25


def rightness(text: str) -> tuple[float, int]:
    """(The share of the characters beyond ASCII that one language's alphabet covers, their number).

    Signs of punctuation do not count; U+FFFD, controls and rare signs do. A text of ASCII is all right. One is
    all wrong where small Cyrillic letters stand before capitals (KOI8-R has them the other way round), or where
    Greek letters and the like are parts of Latin words.

    >>> rightness("l’été à Nîmes"), rightness("l’été à Nîmes".encode("cp1252").decode("cp1250"))
    ((1.0, 4), (0.75, 4))
    """
    counts = {char: count for char, count in Counter(ASCII.sub("", text)).items() if _counts(char)}
    total = sum(counts.values())
    if not total:
        return 1.0, 0
    if any("\u0370" <= char <= "\u06ff" for char in counts) and (
        len(LOWER_UPPER.findall(text)) > len(UPPER_LOWER.findall(text))
        or len(MIXED.findall(text)) > MIXED_SHARE * total
    ):
        return 0.0, total
    covered = max(sum(counts[char] for char in counts.keys() & alphabet) for alphabet in alphabets())
    return covered / total, total


@functools.lru_cache(4096)
def _counts(char: str) -> bool:
    """Whether a character is a letter, or a sign that should not be there."""
    return char not in SIGNS and unicodedata.category(char) not in NEUTRAL


@functools.cache
def alphabets() -> tuple[frozenset[str], ...]:
    """The letters beyond ASCII of each language or group of languages, small and capital."""
    both = (frozenset(letters + letters.upper()) for letters in (*LATIN, *CYRILLIC))
    ranges = (frozenset(map(chr, range(ord(first), ord(last) + 1))) for first, last in OTHERS)
    cells = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
    east = (
        frozenset(bytes((row, cell)).decode(codec, "ignore")[:1] for row in rows for cell in cells)
        for codec, rows in STANDARDS
    )
    return (*both, *ranges, *east)
