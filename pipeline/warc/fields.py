"""Header fields of WARC records and HTTP answers, as lenient as their standards let a reader be.

Names are case-insensitive, a line that begins with white space goes on with the field before it, and lines end
with CR LF or with LF alone. Sources: WARC 1.1 (ISO 28500), section 4; RFC 9112, sections 2.2 and 5.2.
"""

from __future__ import annotations

import re

FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+")


class Fields:
    """The fields of a header by their names in lower case, each with its values in their order.

    Values are decoded when they are asked for, since few are.
    """

    def __init__(self, values: dict[bytes, list[bytes]], charset: str = "utf-8") -> None:
        self.values, self.charset = values, charset

    def get(self, name: str) -> str:
        """The first value of a field, "" where there is none."""
        values = self.values.get(name.encode())
        return values[0].strip().decode(self.charset, "replace") if values else ""

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value.strip().decode(self.charset, "replace") for value in self.values.get(name.encode(), [])]


def read_fields(lines: bytes, charset: str = "utf-8") -> Fields:
    """The fields in the lines of a header, without its first line. A line without a colon is passed over.

    >>> read_fields(b"WARC-TYPE: response\\nWarc-Target-URI:\\r\\n  https://a.example/\\r\\n").get("warc-target-uri")
    'https://a.example/'
    """
    values: dict[bytes, list[bytes]] = {}
    if b"\n " in lines or b"\n\t" in lines:
        lines = FOLD.sub(b" ", lines)
    for line in lines.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            values.setdefault(name.strip().lower(), []).append(value)
    return Fields(values, charset)
