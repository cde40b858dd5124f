import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.html import charset_of, decode, is_html, paragraphs

TEXT = "<p>Été à Noël, où l’œuvre coûte 5 €</p>"


@pytest.mark.parametrize(
    ("body", "header", "codec", "decided_by"),
    [
        (b"\xef\xbb\xbf" + TEXT.encode(), "iso-8859-1", "utf-8", "bom"),
        (TEXT.encode("utf-16"), None, "utf-16-le", "bom"),
        (TEXT.encode("cp1252"), "iso-8859-1", "cp1252", "http"),  # as browsers read it
        (TEXT.encode("cp1252"), "latin1", "cp1252", "http"),
        (b"<meta charset=windows-1252>" + TEXT.encode("cp1252"), None, "cp1252", "meta"),
        (b"<meta charset=windows-1252>" + TEXT.encode(), "utf-8", "utf-8", "http"),
        (b"<meta charset=utf-16>" + TEXT.encode(), None, "utf-8", "meta"),
        (b"<meta charset=nonsense>" + TEXT.encode(), "x-unknown", "utf-8", "detected"),
        (
            "<p>日本語のページです。文字コードを調べます。</p>".encode("shift_jis"),
            "shift_jis",
            "shift_jis",
            "http",
        ),
    ],
)
def test_charset_is_decided_as_a_browser_would(body, header, codec, decided_by):
    assert charset_of(body, header) == (codec, decided_by)
    text = decode(body, codec)
    assert text is not None
    assert "\ufffd" not in text


@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12)))
def test_any_bytes_with_any_label_are_decoded_or_refused(body, label):
    codec, _ = charset_of(body, label)
    text = decode(body, codec)
    assert text is None or text.encode("utf-8", "strict") is not None


def test_the_wrong_charset_is_refused_and_a_bad_byte_is_not():
    assert decode("日本語".encode("shift_jis") * 50, "utf-8") is None
    assert decode(b"good text " * 50 + b"\xff", "utf-8") is not None


def test_declared_types_win_over_sniffing():
    assert is_html("text/html", b"")
    assert not is_html("image/png", b"<html>")
    assert is_html("", b"\n <!DOCTYPE html><html>")
    assert not is_html("", b"\x89PNG")


def test_paragraphs_have_no_control_characters():
    assert paragraphs("<p>one\x00\x07</p><p> </p><p>two\u009fx\ufeff</p>") == ["one", "twox"]
