import encodings
import pkgutil
import random
from encodings.aliases import aliases

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.charset import charset_of, decode
from pipeline.extract.media_type import is_html

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
            "cp932",
            "http",
        ),
        (b"<!-- <meta charset=koi8-r> --><meta charset=utf-8>", None, "utf-8", "meta"),
        (b'<?xml version="1.0" encoding="windows-1251"?><html>', None, "cp1251", "meta"),
    ],
)
def test_charset_is_decided_as_a_browser_would(body, header, codec, decided_by):
    assert charset_of(body, header) == (codec, decided_by)
    text = decode(body, codec)
    assert text is not None
    assert "\ufffd" not in text


# Sentences of our own, with the charsets that pages in these languages used before UTF-8.
WORLD = {
    "La rivière coule près de l’école où les élèves ont déjà mangé.": ["cp1252"],
    "Die Straße führt über die Brücke zu den schönen alten Häusern.": ["cp1252", "iso-8859-1"],
    "Příliš mnoho lidí čeká na vlak, který dnes večer nepřijede.": ["iso-8859-2", "cp1250"],
    "Вечером дети гуляют возле реки и кормят маленьких уток.": ["cp1251", "koi8-r", "utf-16-le", "utf-16-be"],
    "Το βράδυ τα παιδιά περπατούν κοντά στο ποτάμι.": ["iso-8859-7"],
    "Akşam çocuklar nehrin kıyısında yürüyüp şarkı söylüyor.": ["iso-8859-9"],
    "夕方になると子供たちは川のそばを歩いて鳥にえさをやる。①": ["cp932"],
    "夕方になると子供たちは川のそばを歩いて鳥にえさをやる。": ["euc_jp", "iso2022_jp", "utf-16-le"],
    "저녁이 되면 아이들은 강가를 걸으며 새에게 먹이를 준다. 똠": ["cp949"],
    "傍晚的时候，孩子们在河边散步，给小鸭子喂食。": ["gb18030"],
    "傍晚的時候，孩子們在河邊散步，餵小鴨子吃東西。": ["big5"],
}


@pytest.mark.parametrize(("sentence", "codec"), [(s, c) for s, names in WORLD.items() for c in names])
def test_pages_that_declare_nothing_are_read_right(sentence, codec):
    text = f"<html><body><p>{sentence}</p><p>{sentence}</p></body></html>"
    body = text.encode(codec)
    found, decided_by = charset_of(body, None)
    assert decided_by == "detected"
    assert decode(body, found) == text


@pytest.mark.parametrize(
    ("label", "text"), [("shift_jis", "①～"), ("euc-kr", "똠"), ("gb2312", "€"), ("iso-8859-1", "“€”")]
)
def test_a_label_means_what_it_means_on_the_web(label, text):
    wide = {"shift_jis": "cp932", "euc-kr": "cp949", "gb2312": "gb18030", "iso-8859-1": "cp1252"}[label]
    codec, _ = charset_of(b"", label)
    assert decode(text.encode(wide), codec) == text


def test_no_label_gives_a_codec_that_is_no_charset():
    """`idna` and `punycode` take quadratic time, `zlib` is a bomb, others give half surrogate pairs."""
    names = {*aliases, *aliases.values(), *(module.name for module in pkgutil.iter_modules(encodings.__path__))}
    assert {"idna", "punycode", "unicode_escape", "zlib_codec", "utf_7"} < names
    found = {charset_of(b"", label)[0] for label in names}
    charsets = ("utf-8", "utf-16", "gb18030", "big5hkscs", "euc_jp", "iso", "koi8", "cp", "mac-")
    assert all(codec.startswith(charsets) for codec in found)
    for codec in found:
        hostile = bytes(range(256)) * 300 + random.Random(0).randbytes(100_000)
        assert hostile.decode(codec, "ignore").encode()  # raises for half a surrogate pair


@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12)))
def test_any_bytes_with_any_label_are_decoded_or_refused(body, label):
    codec, _ = charset_of(body, label)
    text = decode(body, codec)
    assert text is None or text.encode("utf-8", "strict") is not None


def test_the_wrong_charset_is_refused_and_a_bad_byte_is_not():
    assert decode("日本語".encode("shift_jis") * 50, "utf-8") is None
    assert decode(b"good text " * 50 + b"\xff", "utf-8") is not None


@pytest.mark.parametrize("start", [b"<meta" * 30 + b"charset=", b"<?xml encoding", b" ", b"<!--" * 50])
def test_hostile_heads_take_linear_time(start):  # backtracking would take minutes
    for _ in range(3000):
        charset_of(start + b" " * 1000, None)


def test_declared_types_win_over_sniffing():
    assert is_html("text/html", b"")
    assert not is_html("image/png", b"<html>")
    assert is_html("", b"\n <!DOCTYPE html><html>")
    assert not is_html("", b"\x89PNG")


@pytest.mark.parametrize("body", [b"%PDF-1.7", b"\x89PNG\r\n", b"PK\x03\x04", b"\0\0\0\x20ftyp"])
def test_a_file_sent_as_html_is_seen_through(body):
    assert not is_html("text/html", body)
