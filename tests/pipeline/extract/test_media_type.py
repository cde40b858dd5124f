"""Which documents are HTML or plain text, by the MIME Sniffing standard and by what browsers show."""

from __future__ import annotations

import pytest

from pipeline.extract.media_type import UNKNOWN, is_html, is_plain_text

TAGS = ["!DOCTYPE HTML", "html", "head", "script", "iframe", "h1", "div", "font", "table", "a", "style", "title",
        "b", "body", "br", "p"]  # fmt: skip
XHTML = '<html xmlns="http://www.w3.org/1999/xhtml">'
PROLOGS = ["", "\n", "\ufeff", '<?xml version="1.0"?>', '<?xml version="1.0"?>\n<!-- x > y -->\n<?a b?>\n',
           '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "x.dtd">\r\n']  # fmt: skip
FEEDS = ["<rss>", '<feed xmlns="x"><html>', "<svg>", "<htmlx>", "x<html>", "<!-- <html> -->", "<a><html>", ""]
OTHER_TYPES = ["text/plain", "application/octet-stream", "application/json", "image/png", "text/*", "text/x-html"]


@pytest.mark.parametrize("content_type", UNKNOWN)
def test_what_has_no_type_is_sniffed(content_type):
    for tag in TAGS:
        for start in (
            f"<{tag}>",
            f"<{tag.lower()} a='b'",
            f"<{tag.upper()}\n",
            f" \r\n\t\f<{tag} >",
            f"\ufeff<{tag}>",
        ):
            assert is_html(content_type, start.encode()), start
        for start in (f"<{tag}", f"<{tag}x>", f"x<{tag}>", f"<-{tag}>", f"< {tag}>", f"</{tag}>"):
            assert not is_html(content_type, start.encode()), start
    for start in ("<!-- x", "<!-->", "<!--x"):
        assert is_html(content_type, start.encode())
    assert all(is_html(content_type, f"{prolog}{XHTML}".encode()) for prolog in PROLOGS)
    assert not any(is_html(content_type, f"<?xml?>{root}".encode()) for root in FEEDS)
    assert not is_html(content_type, b" " * 1500 + b"<html>")
    assert is_plain_text(content_type, "Où ? Là.\n\x1b[0m".encode()) and not is_plain_text(content_type, b"a\0b")


def test_a_type_that_says_something_is_believed():
    for content_type in ("text/html", "application/xhtml+xml"):
        assert is_html(content_type, b"") and is_html(content_type, b"Well.")
    for content_type in OTHER_TYPES:
        assert not is_html(content_type, b"<!DOCTYPE html><html><p>Well.")
        assert is_plain_text(content_type, b"\x00") == (content_type == "text/plain")


@pytest.mark.parametrize(
    "content_type", ["text/xml", "application/xml", "application/vnd.wap.xhtml+xml", "a/b+xml"]
)
def test_xml_is_a_page_where_its_root_is_html(content_type):
    for prolog in PROLOGS:
        assert is_html(content_type, f"{prolog}{XHTML}".encode()), prolog
        assert is_html(content_type, f'{prolog}<h:html xmlns:h="http://www.w3.org/1999/xhtml">'.encode())
        assert not any(is_html(content_type, f"{prolog}{root}".encode()) for root in FEEDS)


BINARY = ["%PDF-1.7", "\x89PNG\r\n", "GIF89a", "\xff\xd8\xff\xe0", "PK\x03\x04", "\x1f\x8b\x08\0", "RIFF\0\0",
          "wOF2", "\0\0\0\x18ftyp", "\0\0\1\0", "OggS\0", "\x1aE\xdf\xa3", "Rar!\x1a\x07\0", "7z\xbc\xaf'",
          "\x1f\x9d\x90"]  # fmt: skip


@pytest.mark.parametrize("content_type", ["text/html", "application/xhtml+xml", "text/xml", *UNKNOWN])
def test_what_begins_as_binary_files_do_is_no_text(content_type):
    for start in BINARY:
        body = start.encode("latin-1") + b"<html><p>"
        assert not is_html(content_type, body) and not is_plain_text(content_type, body)


@pytest.mark.parametrize(
    "filler", [b"<?", b"<!--", b"<!doctype", b"<?xml", b"<a", b" ", b"<html", b"<?a?>", b"-", b"a:"]
)
def test_hostile_starts_end(filler):
    for content_type in ("", "text/xml"):
        assert not is_html(content_type, b"<?xml " + filler * 10_000)
