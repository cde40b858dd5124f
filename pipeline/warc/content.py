"""What a WARC record holds: the HTTP answer, or the plain text of one."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from pipeline.warc.encodings import BODY_MAX, undo
from pipeline.warc.fields import Fields, read_fields
from pipeline.warc.unpacking import Spend

HTTP_HEADER_MAX = 2**20
# The bytes of a record's block that are looked at.
BLOCK_MAX = BODY_MAX + HTTP_HEADER_MAX
HTTP_HEADER = re.compile(rb"HTTP/[0-9.]+ +([0-9]{3})[^\n]*+\n((?:(?!\r?\n)[^\n]*+\n)*+)\r?\n")


@dataclass(frozen=True)
class Response:
    """One HTTP response, or the plain text of one (kind `conversion`, in WET files).

    `offset` is where its record, or the frame with its record, starts in the (compressed) file. `problem` is "",
    or why the body is not what the server sent: `body_too_long`, `truncated_body`, `undecodable_encoding`,
    `too_many_encodings` or `no_http_headers`.
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


def read_content(fields: Fields, block: bytes, length: int, offset: int, spend: Spend) -> Response | None:
    """The response in a record, or None where the record is none.

    `block` is the record's block, or the first BLOCK_MAX bytes of one; `length` is how long it is.
    """
    kind = fields.get("warc-type").lower()
    if kind not in ("response", "conversion"):
        return None
    response = functools.partial(
        Response,
        url=fields.get("warc-target-uri"),
        date=fields.get("warc-date"),
        offset=offset,
        record_id=fields.get("warc-record-id"),
        digest=fields.get("warc-payload-digest"),
    )
    if kind == "conversion":
        return response(
            status=200,
            content_type="text/plain",
            charset="utf-8",
            body=block[:BODY_MAX],
            kind="conversion",
            problem="body_too_long" if length > BODY_MAX else "",
        )
    header = HTTP_HEADER.match(block, 0, HTTP_HEADER_MAX)
    if header is None:
        return response(status=0, content_type="", charset=None, body=b"", problem="no_http_headers")
    body = block[header.end() : header.end() + BODY_MAX]
    problem = "body_too_long" if length - header.end() > BODY_MAX else ""
    http = read_fields(header[2], "latin-1")
    encodings = [*http.all("content-encoding"), *http.all("transfer-encoding")]
    if encodings:
        body, undone = undo(body, encodings, spend)
        problem = problem or undone
    media_type, _, parameters = http.get("content-type").partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?([^\s\"';]+)", parameters, re.IGNORECASE)
    return response(
        status=int(header[1]),
        content_type=media_type.strip().lower(),
        charset=charset[1] if charset else None,
        body=body,
        problem=problem,
    )
