"""What a WARC record holds: an HTTP answer, a file, or what somebody made of one.

Sources: WARC 1.1 (ISO 28500), sections 5 to 8; RFC 9110, 15.2, and RFC 9112, 2 to 4, for the HTTP header.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from pipeline.warc.encodings import BODY_MAX, undo
from pipeline.warc.fields import Fields, media_type_of, read_fields
from pipeline.warc.unpacking import Spend

HTTP_HEADER_MAX = 2**20
HTTP_HEADER_COST = 2**5  # a byte of a header counts as so many, for the time that fields take
# The bytes of a record's block that are looked at.
BLOCK_MAX = BODY_MAX + HTTP_HEADER_MAX
# As lenient as browsers: any case, tabs, no version, no reason; before it, white space and interim answers (1xx).
# A header ends at an empty line; one that lacks it, before the first tag or at the end of the block.
_STATUS = rb"[ \t]*+(?:HTTP(?>/[0-9.]*+)?+|ICY)[ \t]++%b(?![0-9])"
_ANY_STATUS = _STATUS % rb"[0-9]{3}"
HTTP_HEADER = re.compile(
    rb"(?>\s*+%b[^\n]*+\n(?>(?!%b)[^\n]*+\n)*+(?=%b))*+" % (_STATUS % rb"1[0-9]{2}", _ANY_STATUS, _ANY_STATUS)
    + rb"\s*+%b[^\n]*+\n?+((?>(?!\r*+[\n<])[^\n]++\n?+)*+)(?>\r*+\n|\r++(?=<))?+" % (_STATUS % rb"([0-9]{3})"),
    re.IGNORECASE,
)
HTTP_TYPES = ("application/http", "message/http")
MAY_BE_HTTP = (*HTTP_TYPES, "text/html", "application/xhtml+xml", "")  # old archives name the type of the page
TAG = re.compile(rb"(?>\xef\xbb\xbf)?+\s*+<")
OTHER_SCHEME = re.compile(r"(?!https?:)[a-z][a-z0-9+-]*+:", re.IGNORECASE)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~\w-]++", re.ASCII)

PAGES = ("response", "resource", "conversion")  # the types of records that may hold one
NO_DOCUMENTS = ("warcinfo", "request")  # they describe the file or another record, as most metadata do
# Other types stand for a document. A continuation belongs to a record that counts as cut short.
LEFT_OUT = {
    "metadata": "metadata_record",
    "revisit": "revisit_record",
    "continuation": "continuation_record",
}
TYPES = frozenset((*PAGES, *NO_DOCUMENTS, *LEFT_OUT))


class Response(NamedTuple):
    """A document: one HTTP answer, or the content of a record of the type `kind`.

    `offset` is where its record, or the frame with its record, starts in the (compressed) file. `content_type` is
    in lower case, "" where there is none. `left_out` is "", or why a sound record is no page, whatever is in it:
    `metadata_record`, `revisit_record`, `continuation_record`, `unknown_record_type` or `other_scheme`. `problem`
    is "", or why the body is not what the server sent: `body_too_long`, `truncated_body`, `undecodable_encoding`,
    `too_many_encodings`, `no_http_headers` or `no_record_type`.
    """

    url: str
    date: str
    offset: int
    record_id: str
    digest: str
    status: int
    content_type: str
    charset: str | None
    body: bytes
    kind: str = "response"
    problem: str = ""
    left_out: str = ""


def read_content(fields: Fields, block: bytes, length: int, offset: int, spend: Spend) -> Response | None:
    """The document in a record, or None where the record is none, but describes the file or another record.

    `block` is the record's block, or the first BLOCK_MAX bytes of one; `length` is how long it is.
    """
    kind = _record_type(fields)
    if kind in NO_DOCUMENTS:
        return None
    media_type, charset = media_type_of(fields)
    if kind == "metadata" and media_type == "application/warc-fields":
        return None
    url = fields.get("warc-target-uri")
    if url.startswith("<") and url.endswith(">"):  # the grammar of WARC 1.0 has them, and wget writes them
        url = url[1:-1].strip()
    response = functools.partial(
        Response,
        url=url,
        date=fields.get("warc-date"),
        offset=offset,
        record_id=fields.get("warc-record-id"),
        digest=fields.get("warc-payload-digest"),
        kind=kind,
    )
    whole = functools.partial(
        response, status=200, content_type=media_type, charset=charset, body=block[:BODY_MAX]
    )
    if not kind:
        return whole(problem="no_record_type")
    if kind not in PAGES:
        return whole(left_out=LEFT_OUT.get(kind, "unknown_record_type"))
    if kind == "response" and OTHER_SCHEME.match(url):
        return whole(left_out="other_scheme")
    header = _http_header(block) if kind == "response" or media_type in HTTP_TYPES else None
    begin = header.end() if header else 0
    problem = "body_too_long" if length - begin > BODY_MAX else ""
    if fields.get("warc-segment-number"):  # the rest is in continuation records, perhaps of another file
        problem = "truncated_body"
    if header is None:
        # A page alone, as HTTP/0.9 has it too, begins with a tag; what does not may be a damaged header.
        if kind == "response" and media_type in MAY_BE_HTTP and not TAG.match(block):
            problem = "no_http_headers"
        return whole(content_type="" if media_type in HTTP_TYPES else media_type, problem=problem)
    spend(HTTP_HEADER_COST * begin)
    http = read_fields(header[2], "latin-1")
    body = block[begin : begin + BODY_MAX]
    encodings = [*http.all("content-encoding"), *http.all("transfer-encoding")]
    if encodings:
        body, undone = undo(body, encodings, spend)
        problem = problem or undone
    media_type, charset = media_type_of(http)
    return response(status=int(header[1]), content_type=media_type, charset=charset, body=body, problem=problem)


def _record_type(fields: Fields) -> str:
    """The type of a record in lower case, "" where it cannot be told: none, several, or no word at all."""
    types = fields.all("warc-type")
    kind = types[0].lower() if types else ""
    if kind not in TYPES and not TOKEN.fullmatch(kind):
        return ""
    return kind if len(types) == 1 or all(value.lower() == kind for value in types) else ""


def _http_header(block: bytes) -> re.Match[bytes] | None:
    """The header of an HTTP answer at the front, its status and its lines; None where it has none, or no end."""
    header = HTTP_HEADER.match(block, 0, HTTP_HEADER_MAX)
    return None if header and header.end() == HTTP_HEADER_MAX < len(block) else header
