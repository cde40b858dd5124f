"""HTML rewritten so that resiliparse keeps what a reader sees in it.

resiliparse 2.0.1 decides by tags, classes and links what the main content is, and takes words out of sentences
and lists out of articles. Each function here undoes one of its rules where that is wrong. They work on the source,
in linear time: to walk its tree from Python takes longer than three extractions.
"""

from __future__ import annotations

import functools
import itertools
import re

# Noncharacters of Unicode: no text has them.
FILLER = "\ufdd0"  # makes a text node longer
PREFORMATTED = "\ufdd1" * 2  # stands before each line of preformatted text; one alone would be a short text itself

_SPACE = r"[ \t\n\r\f\v]"  # without U+00A0, which is a letter like any other to resiliparse
# Phrasing content that is text (HTML standard, section 3.2.5.2.5), in earlier versions too.
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|nobr|q|s|samp|small|span|strike"
    "|strong|sub|sup|time|tt|u|var"
)


def mend(html: str) -> str:
    """The source of a page with all of the below."""
    if _is_xhtml(html):
        html = close_empty_elements(html)
    html = fill_short_texts(remove_page_turners(html))
    return mark_preformatted(keep_lists(keep_inline_elements(html)))


# XHTML --------------------------------------------------------------------------------------------

_SELF_CLOSED = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)"
    r"([a-z][a-z0-9]*+)(?:/|\s[^<>]*+(?<=[\"'\s]/))>"
)


def _is_xhtml(html: str) -> bool:
    """Whether a page says that it is XML, whatever type it is sent with: its author wrote it so."""
    head = html[:1000]
    return "<?xml" in head or "http://www.w3.org/1999/xhtml" in head


def close_empty_elements(html: str) -> str:
    """`<script/>` as `<script/></script>`: HTML knows no element that closes itself, and reads on inside of it.

    >>> close_empty_elements('<script src="a.js" /><br /><a name="b"/>')
    '<script src="a.js" /></script><br /><a name="b"/></a>'
    """
    return _SELF_CLOSED.sub(r"\g<0></\1>", html)


# Page turners -------------------------------------------------------------------------------------

_PAGE_TURNER = re.compile(
    r'<div class="nav(?:header|footer)"[^<>]*+>(?>[^<]++|<(?!/div>))*+'
    r'|<table class="nav_table"[^<>]*+>(?>[^<]++|<(?!/table>))*+'
)


def remove_page_turners(html: str) -> str:
    """The source without the links to the pages before and behind that DocBook and Texinfo write.

    resiliparse knows navigation by other names, and takes these for text. No other page has the same ones, so that
    deduplication leaves them too.

    >>> remove_page_turners('<div class="navheader"><a>Prev</a><a>Next</a></div><p>Text')
    '</div><p>Text'
    """
    return _PAGE_TURNER.sub("", html)


# Text nodes of three bytes ------------------------------------------------------------------------

_REFERENCE = r"&[#\w]{2,31};?"
# Not icons by their numbers, U+E000 to U+F8FF.
_NO_ICON = r"(?!&#(?:[xX](?:[eE]|[fF](?=[0-8]))[0-9a-fA-F]|5[7-9]\d|6[0-3]\d)[0-9a-fA-F]{2};)"
_SHORT_TEXT = re.compile(
    rf">{_SPACE}*+(?:[!-%'-;=-~](?:[\x80-\u07ff]|{_REFERENCE})|[\u0800-\ud7ff\uf900-\uffff]"
    rf"|{_NO_ICON}{_REFERENCE}(?:[\x80-\u07ff]|{_REFERENCE})?)(?={_SPACE}*+(?:<|\Z))"
)


def fill_short_texts(html: str) -> str:
    """FILLER behind each text that may have three bytes of UTF-8, the last of them 0x80 or above.

    resiliparse takes such a node for an icon of a font, in the private use area, and drops it.

    >>> ascii(fill_short_texts("<b>o\u00f9</b> <i>&euro; </i> <u>ou</u>"))
    "'<b>o\\\\xf9\\\\ufdd0</b> <i>&euro;\\\\ufdd0 </i> <u>ou</u>'"
    """
    return _SHORT_TEXT.sub(rf"\g<0>{FILLER}", html)


# Inline elements ----------------------------------------------------------------------------------

_HIDING = ("hidden", "invisible", "display:", "display-none")
_OPENED = re.compile(rf"<({_INLINE})\b([^<>]*+)")
# Inline tags one after the other, one of which has attributes or is a time, behind text, perhaps with white space.
_AFTER_TEXT = re.compile(
    rf"<(?:(?<=[^>\s]<)|(?<=[^>]\s<))(?:{_INLINE})(?>>\s*+<(?:{_INLINE})){{0,4}}+(?:\s|(?<=<time))[^<>]*+"
    rf"(?>>\s*+<(?:{_INLINE})\b[^<>]*+){{0,4}}+(?=>)"
)
_BEFORE_TEXT = re.compile(
    r"<(?:time\b|(?:a|span)\s(?=[^<>]*?=[\"']?(?:author|tag)\b))[^<>]*+(?=>[^<>]*+</(?:time|a|span)>\s*+(?:[^\s<]|</t[dh]\b))"
)
_BEFORE_TEXT_SIGNS = ("<time", 'rel="author', 'rel="tag')  # few pages have one


def keep_inline_elements(html: str) -> str:
    """Inline elements behind text, or metadata before it, without the attributes for which resiliparse drops them.

    A `<time>`, or a link to an author, is metadata where it stands alone; in a sentence it is a part of it.

    >>> keep_inline_elements('<p>Born on <time>3 May</time> in <a rel="tag" href="/x">Lyon</a>.')
    '<p>Born on <span>3 May</time> in <a>Lyon</a>.'
    """
    html = _AFTER_TEXT.sub(_if_after_text, html)
    if any(sign in html for sign in _BEFORE_TEXT_SIGNS):
        html = _BEFORE_TEXT.sub(lambda tag: _without_attributes(tag[0]), html)
    return html


def _if_after_text(tags: re.Match[str]) -> str:
    new, html, start = _without_attributes(tags[0]), tags.string, tags.start()
    if new == tags[0] or (html[start - 1].isspace() and html[html.rfind(">", 0, start) + 1 : start].isspace()):
        return tags[0]
    return new


@functools.lru_cache(2**14)
def _without_attributes(tags: str) -> str:
    """Tags as they are below; many are equal, above all in code."""
    if "class" in tags or "rel=" in tags or "<time" in tags or "itemprop" in tags or "aria-" in tags:
        return _OPENED.sub(_without_hints, tags)
    return tags


def _without_hints(tag: re.Match[str]) -> str:
    """The beginning of a tag without attributes, unless they hide it; a span for a time."""
    name, attributes = tag.groups()
    if name == "time":
        name = "span"
    return f"<{name}{attributes if any(word in attributes for word in _HIDING) else ''}"


# Lists --------------------------------------------------------------------------------------------

_LIST = re.compile(r"<(/?)(?:ul|UL)\b[^<>]*+>")
_ITEM = re.compile(r"<li\b[^<>]*+>", re.IGNORECASE)
_LINK = re.compile(r"<(/?)a\b", re.IGNORECASE)
# In the beginning of an item, behind tags: a word, or a link and a letter behind it (not only how much it has).
_PROSE = re.compile(
    r"(?>\s*+<(?!/?(?:a|li)\b)[^<>]*+>)*+"
    r"(?:[^<\w]*+\w|\s*+<a\b[^<>]*+>(?>[^<]++|<(?!/?(?:a|li)\b)[^<>]*+>)*+</a>[^<]*?[^\W\d_])",
    re.IGNORECASE,
)
_FIRST_ITEMS = 5
_DEEP, _UNDEEP = "<div>" * 3, "</div>" * 3


def keep_lists(html: str) -> str:
    """Lists of prose made such that resiliparse keeps them: four elements below the body, and without links.

    It drops each `<ul>` that is nearer, or has links in more than a fifth of its text. Menus are left to it.

    >>> keep_lists('<ul><li>3 <a href="/eggs">eggs</a></ul><ul><li><a href="/">Home</a></ul>')
    '<div><div><div><ul><li>3 <i href="/eggs">eggs</i></ul></div></div></div><ul><li><a href="/">Home</a></ul>'
    """
    parts, done, begin, depth = [], 0, 0, 0
    for tag in _LIST.finditer(html):
        if not tag[1]:
            begin = tag.start() if depth == 0 else begin
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0 and _is_prose(html, begin, tag.start()):
                parts += [html[done:begin], _DEEP, _LINK.sub(r"<\1i", html[begin : tag.end()]), _UNDEEP]
                done = tag.end()
    return "".join([*parts, html[done:]]) if parts else html


def _is_prose(html: str, begin: int, end: int) -> bool:
    """Whether of the first items of a list at least half have text outside of the link that they begin with."""
    items = itertools.islice(_ITEM.finditer(html, begin, end), _FIRST_ITEMS)
    prose = [_PROSE.match(html, item.end(), end) is not None for item in items]
    return 2 * sum(prose) >= len(prose) > 0


# Preformatted text --------------------------------------------------------------------------------

_PRE = re.compile(r"<(/?)(?:pre|PRE)\b[^<>]*+>(?:\r?\n)?")
_LINE_END = re.compile(r"\n|<br\b[^<>]*+>", re.IGNORECASE)


def mark_preformatted(html: str) -> str:
    """PREFORMATTED before each line of a `<pre>`: of other lines the white space before them means nothing.

    >>> ascii(mark_preformatted("<pre>if a:\\n  b</pre>"))
    "'<pre>\\\\ufdd1\\\\ufdd1if a:\\\\n\\\\ufdd1\\\\ufdd1  b</pre>'"
    """
    if "<pre" not in html and "<PRE" not in html:
        return html
    parts, done, begin = [], 0, 0
    for tag in _PRE.finditer(html):
        if not tag[1]:
            begin = begin or tag.end()
        elif begin:
            lines = _LINE_END.sub(rf"\g<0>{PREFORMATTED}", html[begin : tag.start()])
            parts += [html[done:begin], PREFORMATTED, lines]
            done, begin = tag.start(), 0
    return "".join([*parts, html[done:]]) if parts else html


# Hints --------------------------------------------------------------------------------------------

_HIDING_CLASS = re.compile(
    r" class=[\"'](?=(?:[^\"'<>]*?\s)?(?:(?:is|visually)[_-])?(?:hidden|invisible|display-none)[\"'\s>])"
)
_HINTS = (" class=", " id=", " role=", " aria-")


def remove_hints(html: str) -> str:
    """The source with other names for the attributes that say what an element is for, but for those that hide it.

    >>> remove_hints('<div class="share" lang="fr"><p class="is-hidden">')
    '<div no-class="share" lang="fr"><p hidden no-class="is-hidden">'
    """
    html = _HIDING_CLASS.sub(r" hidden\g<0>", html)
    for name in _HINTS:
        html = html.replace(name, f" no-{name[1:]}")
    return html
