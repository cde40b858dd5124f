import pytest

from pipeline.extract.main_text import paragraphs
from pipeline.extract.media_type import is_html


def test_declared_types_win_over_sniffing():
    assert is_html("text/html", b"")
    assert not is_html("image/png", b"<html>")
    assert is_html("", b"\n <!DOCTYPE html><html>")
    assert not is_html("", b"\x89PNG")


@pytest.mark.parametrize("body", [b"%PDF-1.7", b"\x89PNG\r\n", b"PK\x03\x04", b"\0\0\0\x20ftyp"])
def test_a_file_sent_as_html_is_seen_through(body):
    assert not is_html("text/html", body)


def test_paragraphs_have_no_control_characters():
    assert paragraphs("<p>one\x00\x07</p><p> </p><p>two\u009fx\ufeff</p>") == ["one", "twox"]
