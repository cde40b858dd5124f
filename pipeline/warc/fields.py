"""Header fields of WARC records and HTTP answers, as lenient as their standards let a reader be.

Names are case-insensitive, a line that begins with white space goes on with the field before it, and lines end
with CR LF or with LF alone. Sources: WARC 1.1 (ISO 28500), section 4; RFC 9112, sections 2.2 and 5.2; for the
media type, the WHATWG standards Fetch ("extract a MIME type") and MIME Sniffing, section 4.4.
"""

from __future__ import annotations

import functools
import re

FOLD = re.compile(rb"\r?\n[ \t]++")
MEDIA_TYPE_MAX = 2**12  # characters of Content-Type that are looked at
VALUE = re.compile(r"""(?>[^,"]++|"[^"]*+"?+)++""")  # of a list; a comma in quotes parts no two
MEDIA_TYPE = re.compile(r"\s*+([!#$%&'*+.^_`|~\w-]++/[!#$%&'*+.^_`|~\w-]++)\s*+(?:;|$)", re.ASCII)
CHARSET = re.compile(r"""(?>charset\s*+=\s*+["']?+\s*+)++([^\s"',;()=]{1,100})""", re.IGNORECASE)


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


def media_type_of(fields: Fields) -> tuple[str, str | None]:
    """The media type that Content-Type names, in lower case, and its charset; "" where it names none.

    Of several the last valid one counts, with the charset of an earlier one of the same type if it has none. A
    charset is also read where it is not as the standard demands, as servers write it.

    >>> media_type_of(read_fields(b"Content-Type: text/html; charset=utf-8\\ncontent-type: Text/HTML, */*"))
    ('text/html', 'utf-8')
    >>> media_type_of(read_fields(b"Content-Type: html charset = 'utf-8'"))
    ('', 'utf-8')
    """
    return _media_type(", ".join(fields.all("content-type"))[:MEDIA_TYPE_MAX])


@functools.lru_cache(256)
def _media_type(value: str) -> tuple[str, str | None]:
    media_type, charset = "", None
    for part in VALUE.findall(value):
        match = MEDIA_TYPE.match(part)
        if match is None or match[1] == "*/*" or match[1].startswith("'"):  # a type in quotes is none
            continue
        named = CHARSET.search(part, match.end())
        if named or match[1].lower() != media_type:
            charset = named[1] if named else None
        media_type = match[1].lower()
    if not media_type and (named := CHARSET.search(value)):
        charset = named[1]
    return media_type, charset
