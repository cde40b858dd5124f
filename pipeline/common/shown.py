"""Text as it may be shown and kept: without the secrets of addresses, and without what steers a terminal.

Whoever has a signed address can fetch the file. And file names, addresses, headers and pages come from others.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
LINE_CHARS = 4000
# In a text, an address goes on up to white space, quotes or brackets, and ends in no punctuation. Of a long scheme
# the last letters are enough, so that a long word costs little time for each of its letters.
ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s"'<>]*[^\s"'<>:;,.)\]]""")
# A name and password before the host; or what may be one, not quoted as it should be: behind ':' is no port.
USER = re.compile(r"[^/?#]*@|[^/?#@\[:]*:(?!\d*(?:[/?#]|$)).*@", re.DOTALL)
SECRET_KEY = re.compile(
    r"(.*_)?(token|password|passwd|secret|credentials?|signature|(api|access|secret)_?key(_id)?)", re.IGNORECASE
)
# Controls but for tab and line feed, marks of direction, other ends of lines, and halves of surrogate pairs.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(address: str) -> str:
    """A URL without name and password, and without the values in its query; a path of a file as it is.

    >>> shown("https://name:word@data.example/a.gz?X-Amz-Signature=12ab&n=1")
    'https://***@data.example/a.gz?X-Amz-Signature=***&n=***'
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    if user := USER.match(rest):
        rest = f"{HIDDEN}@{rest[user.end() :]}"
    rest, hash_sign, fragment = rest.partition("#")
    place, mark, query = rest.partition("?")
    if "=" in fragment:  # a number of a row is one that stays
        fragment = _without_values(fragment)
    return f"{scheme}://{place}{mark}{_without_values(query)}{hash_sign}{fragment}"


def _without_values(query: str) -> str:
    parts = [part.partition("=") for part in re.split("[&;]", query)]
    return "&".join(f"{name}={HIDDEN}" if sign else name and HIDDEN for name, sign, _ in parts)


def without_secrets(text: str) -> str:
    """A text in which each address is as `shown` has it.

    >>> without_secrets("see s3://key:secret@bucket/a, then https://data.example/?abc: no such file")
    'see s3://***@bucket/a, then https://data.example/?***: no such file'
    """
    return ADDRESS.sub(lambda match: shown(match[0]), text)


def data_without_secrets(data: Any) -> Any:
    """The same for JSON data; also without the texts of keys such as `password`.

    >>> data_without_secrets({"warcs": ["https://data.example/a?sig=1"], "hf_token": "hf_1", "tokens": {"n": 1}})
    {'warcs': ['https://data.example/a?sig=***'], 'hf_token': '***', 'tokens': {'n': 1}}
    """
    if isinstance(data, str):
        return without_secrets(data)
    if isinstance(data, list):
        return [data_without_secrets(item) for item in data]
    if isinstance(data, dict):
        return {
            key: HIDDEN
            if isinstance(value, str) and value and SECRET_KEY.fullmatch(str(key))
            else data_without_secrets(value)
            for key, value in data.items()
        }
    return data


def without_steering(text: str) -> str:
    r"""A text in which nothing moves a cursor, sets a title or turns the direction; lines stay.

    >>> without_steering("a \x1b[2J\nb\r")
    'a \\x1b[2J\nb\\r'
    """
    return STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable(text: str) -> str:
    r"""The same on one line, of at most LINE_CHARS, and without secrets.

    >>> printable("HTTP 503 \x1b[2Jbusy\n")
    'HTTP 503 \\x1b[2Jbusy\\n'
    """
    clean = without_steering(without_secrets(text)).replace("\n", r"\n")
    return clean if len(clean) <= LINE_CHARS else f"{clean[:LINE_CHARS]}…"


def printable_lines(text: str) -> str:
    """The same for each line of a text."""
    return "\n".join(map(printable, text.split("\n")))
