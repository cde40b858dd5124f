"""Hosts in the addresses of pages, which anyone may have written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

LONGEST_HOST = 253  # characters (RFC 1035)
# Of a longer address only the end of the part with the host is split: urlsplit normalises that part, which takes
# quadratic time, and keeps addresses that it has split. And only its beginning is searched: a pattern such as
# `.*wiki` takes quadratic time.
LONGEST = 2048
AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def host_of(url: str) -> str:
    """The host of an address in lower case, or "" where it has none or is wrong.

    >>> host_of("https://user@Docs.Example:80/a?b"), host_of("mailto:a@b"), host_of("https://[")
    ('docs.example', '', '')
    """
    if len(url) > LONGEST:
        match = AUTHORITY.match(url)
        url = f"//{match[1][-LONGEST:]}" if match else ""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # an unclosed bracket
        return ""


def matches(pattern: re.Pattern[str], url: str) -> bool:
    """Whether a pattern of the config is in an address.

    >>> matches(re.compile("/wiki/"), "https://a.example/wiki/B")
    True
    """
    return pattern.search(url, 0, LONGEST) is not None


def with_parents(host: str) -> Iterator[str]:
    """A host and the domains that it is in.

    >>> list(with_parents("docs.example.org"))
    ['docs.example.org', 'example.org', 'org']
    """
    while host:
        yield host
        host = host.partition(".")[2]
