"""What a record holds, for the many ways in which archives and servers write the same thing."""

from __future__ import annotations

import gzip
import itertools

import pytest

from pipeline.warc.content import HTTP_HEADER_MAX, Response, read_content
from pipeline.warc.encodings import BODY_MAX, undo
from pipeline.warc.fields import Fields, media_type_of, read_fields
from pipeline.warc.unpacking import unlimited

# Empty lines of each kind in the middle of a page: its beginning must not be taken for a header.
PAGE = b"<!DOCTYPE html>\n<p>One</p>\r\n\r\n<p>Two: 2</p>\n\n<p>Three</p>"
HTTP = "application/http; msgtype=response"


def content(block: bytes, kind: str = "response", media: str | None = HTTP, **more: str) -> Response:
    """The document in a record; names of `more` have "_" for "-"."""
    response = maybe(block, kind, media, **more)
    assert response is not None
    return response


def maybe(block: bytes, kind: str = "response", media: str | None = HTTP, **more: str) -> Response | None:
    fields = {"warc_type": kind, "warc_target_uri": "https://a.example/", "content_type": media} | more
    return read_content(header(*fields.items()), block, len(block), 0, unlimited)


def header(*fields: tuple[str, str | None]) -> Fields:
    lines = (f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields if value is not None)
    return read_fields("".join(lines).encode())


def is_the_page(found: Response) -> bool:
    return (found.status, found.content_type, found.body, found.problem, found.left_out) == (
        200, "text/html", PAGE, "", ""
    )  # fmt: skip


NAMES = ["Content-Type", "content-type", "CONTENT-TYPE", "Content-Type \t"]
VALUES = [" text/html; charset=utf-8", "Text/HTML;CHARSET=UTF-8", "\r\n\ttext/html;\r\n  charset=utf-8",
          " text/html;\n charset=utf-8", "\t \t\"x\r\n Content-Type: text/html; charset=utf-8"]  # fmt: skip
BESIDE = ["", "Server: x\n", "no colon at all\r\n", "X-\xe9: \xe9\x01\r\n", ": no name\r\n", "A:\r\nA: 2\r\nA:\n"]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r\r\n"])
@pytest.mark.parametrize("blank", ["\r\n", "\n", ""])
def test_a_header_ends_where_it_ends(end, blank):
    for name, value, beside in itertools.product(NAMES, VALUES, BESIDE):
        value = value.replace('"x\r\n ', "x\r\n") if value.startswith("\t") else value
        header = f"HTTP/1.1 200 OK{end}{beside}{name}:{value}{end}{beside}{blank}"
        found = content(header.encode("latin-1") + PAGE)
        assert is_the_page(found), header
        assert (found.charset or "").lower() == "utf-8"


STATUS_LINES = [
    "HTTP/1.1 200 OK", "HTTP/1.0  200  OK", "HTTP/1.1\t200\tOK", "http/1.1 200 ok", "Http/1.1 200 OK",
    "HTTP/2 200", "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1   200   All: well", "HTTP 200 OK", "HTTP/ 200 OK",
    "ICY 200 OK", " HTTP/1.1 200 OK", "\t HTTP/1.1 200 OK", "\r\nHTTP/1.1 200 OK", "\n\n  HTTP/1.1 200 OK",
    "HTTP/1.1 200OK", "HTTP/3.0 200 \xe9t\xe9",
]  # fmt: skip
OTHERS = [
    "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 OK", "HTTP/1.1200 OK", "HTP/1.1 200 OK", "200 OK", "HTTP/1.1",
    "x HTTP/1.1 200 OK", "GET / HTTP/1.1", "Content-Type: text/html", "",
]  # fmt: skip


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_status_lines(end):
    rest = f"{end}Content-Type: text/html{end}{end}".encode() + PAGE
    for line in STATUS_LINES:
        assert is_the_page(content(line.encode("latin-1") + rest)), line
        assert content(line.replace("200", "404").encode("latin-1") + rest).status == 404
        assert content(line.encode("latin-1")).body == b""  # no field, no line end
    for line in OTHERS:
        found = content(line.encode() + rest)
        assert (found.problem, found.status) == ("no_http_headers", 200), line


INTERIM = [
    "HTTP/1.1 100 Continue{end}{end}", "HTTP/1.1 100{end}", "http/1.1  103 Early Hints{end}Link: </a>{end}{end}",
    "HTTP/1.1 102 Processing{end}Content-Type: a/b{end}{end}", "HTTP/1.0 199 x{end}a: b{end} c{end}{end}{end}",
]  # fmt: skip


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_interim_answers_are_passed_over(end):
    for count in (1, 2, 3):
        for some in itertools.product(INTERIM, repeat=count):
            before = "".join(some).replace("{end}", end)
            final = f"HTTP/1.1 200 OK{end}Content-Type: text/html{end}{end}"
            assert is_the_page(content((before + final).encode() + PAGE)), before
    assert content(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + PAGE).status == 101
    # A page that speaks of answers is no answer.
    quoted = PAGE + b"\nHTTP/1.1 200 OK\n\nno"
    assert content(b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + quoted).body == quoted


def test_a_header_of_a_mebibyte():
    for size, problem in (
        (1, ""),
        (200_000, ""),
        (HTTP_HEADER_MAX - 60, ""),
        (HTTP_HEADER_MAX, "no_http_headers"),
    ):
        header = b"HTTP/1.1 200 OK\nContent-Type: text/html\nX: %b\n\n" % (b"x" * size)
        found = content(header + PAGE)
        assert found.problem == problem
        assert problem or is_the_page(found)


MEDIA_TYPES = [  # what Content-Type says, the type and the charset
    (["text/html"], "text/html", None),
    (["'text/html'"], "", None),
    (["\"text/html; charset=utf-8\""], "", "utf-8"),
    ([" TEXT/Html ;Charset = UTF-8 "], "text/html", "UTF-8"),
    (["text/html; charset=utf-8, text/html"], "text/html", "utf-8"),
    (["text/html, text/html; charset=utf-8"], "text/html", "utf-8"),
    (["text/html; charset=gbk", "text/html;charset=utf-8"], "text/html", "utf-8"),
    (["text/html; charset=gbk", "text/plain", "text/html"], "text/html", None),  # the examples of the standard
    (["text/plain;charset=gbk, text/html"], "text/html", None),
    (["text/html;charset=gbk;a=b, text/html;x=\"y\""], "text/html", "gbk"),
    (["text/html;charset=gbk", "x/x", "text/html;x=\",\""], "text/html", None),
    (["text/html", "cannot-parse"], "text/html", None),
    (["text/html", "*/*"], "text/html", None),
    (["text/html", ""], "text/html", None),
    (["text/html;a=\"x, image/png\""], "text/html", None),
    (["text/html;charset=\"utf-8\""], "text/html", "utf-8"),
    (["text/html; charset='utf-8'"], "text/html", "utf-8"),
    (["text/html; charset=utf8;charset=gbk"], "text/html", "utf8"),
    (["text/html; charset=charset=utf-8"], "text/html", "utf-8"),
    (["text/html; charset=utf-8; charset=utf-8"], "text/html", "utf-8"),
    (["text/html; charset=utf-8\""], "text/html", "utf-8"),
    (["text/html; charset=utf-8 (x)"], "text/html", "utf-8"),
    (["text/html;; charset=utf-8;"], "text/html", "utf-8"),
    (["text/html; charset="], "text/html", None),
    (["text/html; level=1"], "text/html", None),
    (["application/xhtml+xml;charset=iso-8859-1"], "application/xhtml+xml", "iso-8859-1"),
    (["text/html charset=utf-8"], "", "utf-8"),
    (["\"text/html\""], "", None),
    (["text/html\xa0; charset=utf-8"], "", "utf-8"),
    (["text / html"], "", None),
    (["text/html(x)"], "", None),
    (["text"], "", None), (["html"], "", None), (["/"], "", None), (["text/"], "", None), ([";"], "", None),
    ([""], "", None), ([], "", None), (["*/*"], "", None), ([",,"], "", None), (["\""], "", None),
    (["unknown/unknown"], "unknown/unknown", None),
]  # fmt: skip


@pytest.mark.parametrize(("values", "media_type", "charset"), MEDIA_TYPES)
def test_media_types(values, media_type, charset):
    assert media_type_of(header(*(("Content-Type", value) for value in values))) == (media_type, charset)


@pytest.mark.parametrize("media", [
    HTTP, "application/http;msgtype=response", "Application/HTTP", "application/http ;", "message/http", None, "",
    "x", '"application/http"', "text/html", "application/octet-stream", "application/http;msgtype=request",
])  # fmt: skip
def test_an_answer_is_told_by_its_status_line_whatever_the_record_says(media):
    for header in (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        b"http/1.0 200\ncontent-type:text/html\n\n",
    ):
        assert is_the_page(content(header + PAGE, media=media))


@pytest.mark.parametrize(("block", "media", "content_type", "problem"), [
    (PAGE, "text/html", "text/html", ""),  # the page itself
    (PAGE, "image/png", "image/png", ""),
    (b"\x89PNG", "image/png", "image/png", ""),
    (PAGE, HTTP, "", ""),  # HTTP/0.9
    (b" \n" + PAGE, None, "", ""),
    (b"\xef\xbb\xbf" + PAGE, "message/http", "", ""),
    (b"Well.", HTTP, "", "no_http_headers"),
    (b"", HTTP, "", "no_http_headers"),
    (b"Well.", None, "", "no_http_headers"),
    (b"HTP/1.1 200 OK\nContent-Type: text/html\n\n" + PAGE, "text/html", "text/html", "no_http_headers"),
])  # fmt: skip
def test_without_a_status_line(block, media, content_type, problem):
    found = content(block, media=media)
    assert (found.content_type, found.problem, found.status) == (content_type, problem, 200)
    assert found.body == block


@pytest.mark.parametrize("kind", ["resource", "conversion", "Resource", "CONVERSION"])
def test_resources_and_conversions_are_what_their_record_says(kind):
    for url in ("https://a.example/", "file:///a.html", "urn:x:a"):
        found = content(PAGE, kind, "text/html; charset=gbk", warc_target_uri=url)
        assert is_the_page(found) and (found.charset, found.kind, found.url) == ("gbk", kind.lower(), url)
    assert content(b"{}", kind, "application/json").content_type == "application/json"
    assert content(PAGE, kind, None).content_type == ""
    assert content(b"HTTP/1.1 200 OK", kind, "text/plain").body == b"HTTP/1.1 200 OK"
    assert is_the_page(content(b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + PAGE, kind))


@pytest.mark.parametrize(("kind", "media", "url", "reason"), [
    ("metadata", "application/json", "https://a.example/", "metadata_record"),  # as in WAT files
    ("metadata", None, "metadata://x", "metadata_record"),
    ("revisit", HTTP, "https://a.example/", "revisit_record"),
    ("continuation", HTTP, "https://a.example/", "continuation_record"),
    ("x-screenshot", "image/png", "https://a.example/", "unknown_record_type"),
    ("response", "text/dns", "dns:a.example", "other_scheme"),
    ("response", "text/plain", "whois://a.example/b", "other_scheme"),
    ("response", "text/html", "ftp://a.example/b.html", "other_scheme"),
    ("response", HTTP, "data:text/html,x", "other_scheme"),
    ("response", None, "MAILTO:a@b.example", "other_scheme"),
    ("response", "text/gemini", "gemini://a.example/", "other_scheme"),
    ("response", "text/plain", "filedesc://a.arc", "other_scheme"),
    ("response", "text/plain", "<urn:uuid:1>", "other_scheme"),
])  # fmt: skip
def test_a_sound_record_that_is_no_page_has_a_reason_and_is_no_failure(kind, media, url, reason):
    for name in (kind, kind.upper()):
        found = content(b"20260101\n192.0.2.1", name, media, warc_target_uri=url)
        assert (found.left_out, found.problem, found.kind) == (reason, "", kind)


@pytest.mark.parametrize("kind", ["warcinfo", "request", "metadata"])
def test_what_describes_the_file_or_another_record_is_no_document(kind):
    for media in ("application/warc-fields", "Application/WARC-Fields; charset=utf-8"):
        assert maybe(b"a: b\r\n", kind, media) is None
    assert (maybe(PAGE, kind, HTTP) is None) == (kind != "metadata")


@pytest.mark.parametrize("types", [[], [""], ["response", "request"], ["a b"], ["resp\x00nse"], ["r\ufffd"]])
def test_a_record_whose_type_cannot_be_told_is_a_failure(types):
    fields = [("WARC-Type", name) for name in types]
    found = read_content(header(("Content-Type", HTTP), *fields), PAGE, len(PAGE), 7, unlimited)
    assert found is not None and (found.problem, found.left_out, found.offset) == ("no_record_type", "", 7)


@pytest.mark.parametrize("url", ["https://a.example/x", "http://a.example/", "HTTPS://a.example/", "",
                                 "//a.example/", "a.example:80/", "http://[", "\ufffd"])  # fmt: skip
def test_a_response_of_the_web_has_its_url(url):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE
    for value in (url, f"<{url}>", f"< {url} >"):
        found = content(block, warc_target_uri=value)
        assert is_the_page(found) and found.url == url
    assert content(block, warc_target_uri=f"{url}>").url == f"{url}>"
    fields = read_fields(b"WARC-Type:response\nwarc-target-uri:\n  <%b>  \r\nContent-Type: x/y" % url.encode())
    found = read_content(fields, block, len(block), 0, unlimited)
    assert found is not None and found.url == url


@pytest.mark.parametrize("kind", ["response", "resource", "conversion"])
def test_the_first_segment_of_a_record_is_cut_short(kind):
    found = content(PAGE, kind, "text/html", warc_segment_number="1")
    assert (found.problem, found.left_out) == ("truncated_body", "")


@pytest.mark.parametrize("stated", [0, 10, len(PAGE), 10**6])
def test_the_length_of_the_record_counts_and_not_that_of_http(stated):
    header = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % stated
    assert is_the_page(content(header + PAGE, warc_truncated="length"))


def test_a_document_longer_than_the_bound_says_so():
    for kind, media in (("resource", "text/html"), ("conversion", "text/plain"), ("response", HTTP)):
        start = b"HTTP/1.1 200 OK\n\n" if kind == "response" else b""
        fields = header(("WARC-Type", kind), ("Content-Type", media))
        for length, problem in ((BODY_MAX, ""), (BODY_MAX + 1, "body_too_long")):
            found = read_content(fields, start + PAGE, len(start) + length, 0, unlimited)
            assert found is not None and found.problem == problem


CHUNK_SIZES = ["%x", "%X", "%013x", "%05000x", "%x  ", " %x\t", "%x;a=b", '%x ; a="b"', "%030x;" + "a" * 5000,
               "\r\n%x"]  # fmt: skip


MUTATIONS = [b"", b"\n", b"\r", b":", b" ", b"\0", b"\xff", b"<", b"1", b"HTTP/1.1 100\n", b"\r\n\r\n"]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_mutated_header_never_costs_more_than_the_first_line_behind_it(end):
    """Which it hits where it hits the empty line."""
    header = end.join([b"HTTP/1.1 200 OK", b"Server: x", b"Content-Type: text/html", b"A: b", b"", b""])
    read = 0
    for place, width, piece in itertools.product(range(len(header)), (0, 1), MUTATIONS):
        block = header[:place] + piece + header[place + width :] + PAGE
        found = content(block)
        assert block.endswith(found.body) and PAGE[PAGE.index(b"\n") + 1 :] in found.body
        assert found.problem in ("", "no_http_headers") and not found.left_out
        read += found.body == PAGE
    assert read > 0.5 * len(header) * 2 * len(MUTATIONS)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("size", CHUNK_SIZES)
def test_chunk_sizes(size, end):
    pieces = [PAGE[:17], PAGE[17:33], PAGE[33:]]
    last = f"0{end}Trailer: x{end}{end}".encode()
    chunks = b"".join((size % len(p) + end).encode() + p + end.encode() for p in pieces)
    for name in ("chunked", "Chunked", "identity, chunked", "gzip, CHUNKED", "chunked, chunked", "chunked;q=1"):
        header = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: {name}\r\n\r\n".encode()
        assert is_the_page(content(header + chunks + last))
    assert undo(chunks, ["chunked"]) == (PAGE, "truncated_body")
    assert undo(b"f" * 10_000 + b"\r\n" + PAGE, ["chunked"]) == (PAGE, "truncated_body")


GZIPPED = gzip.compress(PAGE, mtime=0)  # with the time, tests had other names in each process


@pytest.mark.parametrize(("encoding", "body", "problem"), [
    ("x-gzip", GZIPPED, ""), ("GZIP", GZIPPED, ""), (" gzip ,", GZIPPED, ""),
    ("compress", PAGE, ""), ("x-compress", b"\x1f\x9d\x90", "undecodable_encoding"), ("none", PAGE, ""),
])  # fmt: skip
def test_encodings_in_any_case(encoding, body, problem):
    header = f"HTTP/1.1 200 OK\nContent-Type: text/html\ncontent-encoding: {encoding}\n\n".encode()
    found = content(header + body)
    assert found.problem == problem and (problem or is_the_page(found))


HOSTILE = [
    b" ", b"\t", b"\r", b"\n", b"\r\n ", b"a:", b"a:\n", b":\n", b"<", b",", b'"', b'",', b";", b"charset",
    b"charset =", b"text/", b"a/a,", b"HTTP/1.1 100 \n", b"HTTP/1.1 100 \n\n", b"HTTP/1.1 ", b"0", b"0\n", b"f",
    b"1\n", b"gzip,",
]  # fmt: skip


@pytest.mark.parametrize("start", ["", "HTTP/1.1 200 ", "HTTP/1.1 100 \n", "HTTP/1.1 200\nContent-Type: ",
                                   "HTTP/1.1 200\nTransfer-Encoding: chunked\n\n"])  # fmt: skip
def test_much_of_anything_costs_time_in_proportion(start):
    """With a quadratic pattern, such as one that looks for white space before a line end, it takes minutes."""
    for filler in HOSTILE:
        block = start.encode() + filler * (2**17 // len(filler))
        for end in (b"", b"\n\nX"):
            assert content(block + end).status in (100, 200)
