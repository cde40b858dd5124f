"""Header fields of WARC records and HTTP answers, as lenient as their standards let a reader be.

Names are case-insensitive, a line that begins with white space goes on with the field before it, and lines end
with CR LF or with LF alone. Sources: WARC 1.1 (ISO 28500), section 4; RFC 9112, sections 2.2 and 5.2.
"""

from __future__ import annotations

import re

FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+")


class Fields:
    """The fields of a header by their names in lower case, each with its values in their order."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        self.values = values

    def get(self, name: str) -> str:
        """The first value of a field, "" where there is none."""
        return self.values.get(name, [""])[0]

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return self.values.get(name, [])


def read_fields(lines: bytes, charset: str = "utf-8") -> Fields:
    """The fields in the lines of a header, without its first line. A line without a colon is passed over.

    >>> read_fields(b"WARC-TYPE: response\\nWarc-Target-URI:\\r\\n  https://a.example/\\r\\n").get("warc-target-uri")
    'https://a.example/'
    """
    values: dict[str, list[str]] = {}
    for line in FOLD.sub(b" ", lines).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            key = name.strip().lower().decode("latin-1")
            values.setdefault(key, []).append(value.strip().decode(charset, "replace"))
    return Fields(values)
