import encodings
import pkgutil
import random
from encodings.aliases import aliases

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.charset import charset_of, decode, is_undecodable
from pipeline.extract.prescan import PRESCAN_BYTES, declared_charset
from pipeline.extract.sandbox import extract_text

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
        (b"<meta charset=utf-16>" + TEXT.encode(), None, "utf-8", "detected"),
        (b"<meta charset=nonsense>" + TEXT.encode(), "x-unknown", "utf-8", "detected"),
        (
            "<p>日本語のページです。文字コードを調べます。</p>".encode("shift_jis"),
            "shift_jis",
            "cp932",
            "http",
        ),
        (b"<!-- <meta charset=koi8-r> --><meta charset=utf-8>", None, "utf-8", "meta"),
        (b'<?xml version="1.0" encoding="windows-1251"?><html>', None, "cp1251", "meta"),
        # Valid UTF-8, and nearly so: cut in a character, or with a byte of another charset.
        (TEXT.encode(), "iso-8859-1", "utf-8", "detected"),
        (b"<meta charset=shift_jis>" + TEXT.encode(), "gbk", "utf-8", "detected"),
        (TEXT.encode()[:6], None, "utf-8", "detected"),
        (b"\xa9" + TEXT.encode(), "iso-8859-1", "utf-8", "detected"),
        ("<p>« Ã© » a été là où l’on lit é</p>".encode("cp1252"), "iso-8859-1", "cp1252", "http"),
        # What does not fit the bytes gives way to the next declaration, then to detection.
        (TEXT.encode("cp1252"), "utf-8", "cp1252", "detected"),
        (b"<meta charset=iso-8859-1>" + TEXT.encode("cp1252"), "utf-8", "cp1252", "meta"),
        (b"<meta charset=utf-8>" + TEXT.encode("cp1252"), "iso-8859-1", "cp1252", "http"),
        (TEXT.encode("utf-16-be"), "utf-8", "utf-16-be", "detected"),
        (("\n\t" + TEXT).encode("utf-16-le"), "iso-8859-1", "utf-16-le", "detected"),
        (TEXT.encode("cp1252"), "utf-16", "cp1252", "detected"),
        ("<p>日本語</p>".encode("iso2022_jp"), "utf-8", "iso2022_jp", "detected"),
        ("<p>中文网页</p>".encode("hz"), "hz-gb-2312", "hz", "http"),
    ],
)
def test_the_charset_is_what_fits_the_bytes(body, header, codec, decided_by):
    assert charset_of(body, header) == (codec, decided_by)
    assert not is_undecodable(decode(body, codec))


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


LABELS = {
    "cp932": "shift_jis",
    "cp949": "euc-kr",
    "gb18030": "gb2312",
    "euc_jp": "euc-jp",
    "iso2022_jp": "iso-2022-jp",
}
PAGES = [(sentence, codec) for sentence, names in WORLD.items() for codec in names]


@pytest.mark.parametrize(("sentence", "codec"), PAGES)
def test_a_page_is_read_right_whatever_is_declared_wrong(sentence, codec):
    text = f"<html><body><p>{sentence}</p><p>{sentence}</p></body></html>"
    body = text.encode(codec)
    found, decided_by = charset_of(body, None)
    assert decided_by == "detected"
    assert decode(body, found) == text
    label = LABELS.get(codec, codec.replace("cp125", "windows-125"))
    meta = f'<meta charset="{label}">'
    for other in ("utf-8", "iso-8859-1", "koi8-r", "shift_jis", "windows-1255"):
        assert decode(body, charset_of(body, other)[0]) == text, other
        if not codec.startswith("utf-16"):  # in which it could not be read
            both = meta.encode() + body
            assert decode(both, charset_of(both, other)[0]) == meta + text, other
            assert decode(both, charset_of(both, label)[0]) == meta + text


@pytest.mark.parametrize(
    ("head", "label"),
    [
        ("<META HTTP-EQUIV='Content-Type' CONTENT='text/html; CHARSET = big5 '>", "big5"),
        ("<meta content=text/html;charset=big5 http-equiv=content-type>", "big5"),
        ('<meta content="charset=\'big5\'"http-equiv="Content-Type"/>', "big5"),
        ("<meta/charset=big5>", "big5"),
        ("<meta name=x content=y charset = 'big5' />", "big5"),
        ("<meta charset=big5 charset=koi8-r>", "big5"),
        ("<meta name=description content='charset=koi8-r'><meta charset=big5>", "big5"),
        ("<meta name=keywords content='<meta charset=koi8-r>'><meta charset=big5>", "big5"),
        ("<div title='<meta charset=koi8-r>'></div><meta charset=big5>", "big5"),
        ("<a title='>' data-charset=koi8-r><meta charset=big5>", "big5"),
        ("<!-- x --!><meta charset=koi8-r>--><!--><meta charset=big5>", "big5"),
        ("<!doctype html><?php <meta charset=koi8-r>?><meta charset=big5>", "big5"),
        ("<meta property=og:charset content=koi8-r><metadata charset=koi8-r>", None),
        ("<meta http-equiv=refresh content='0; charset=koi8-r'>", None),
        ("<meta charset=''><meta charset>", None),
        ('<?xml version="1.0" encoding="big5"?>', "big5"),
        ('<?xml version="1.0" encoding="koi8-r"?><meta charset=big5>', "big5"),
        ("<!--" + "x" * 3000 + "--><meta charset=big5>", "big5"),
        ("x" * PRESCAN_BYTES + "<meta charset=big5>", None),
    ],
)
def test_only_a_charset_attribute_or_a_content_type_declares(head, label):
    assert declared_charset(head.encode()) == label


# Of each charset of the Encoding standard some labels, and Python's codec for it.
STANDARD = {
    "utf-8": "unicode-1-1-utf-8 UTF8 x-unicode20utf8",
    "cp866": "866 csibm866",
    "iso8859-2": "l2 iso_8859-2:1987",
    "iso8859-6": "arabic asmo-708",
    "iso8859-7": "sun_eu_greek elot_928",
    "iso8859-8": "visual logical ISO-8859-8-I",
    "iso8859-15": "l9 csisolatin9",
    "koi8-r": "koi koi8_r",
    "koi8-u": "koi8-ru",
    "mac-roman": "macintosh x-mac-roman",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 tis-620 iso-8859-11",
    "cp1250": "x-cp1250",
    "cp1252": "ansi_x3.4-1968 us-ascii l1 iso88591 x-user-defined",
    "cp1254": "latin5 iso-8859-9 l5",
    "gb18030": "chinese gb_2312-80 x-gbk csgb2312",
    "big5hkscs": "cn-big5 x-x-big5 big5-hkscs",
    "euc_jp": "x-euc-jp cseucpkdfmtjapanese",
    "cp932": "sjis x-sjis ms_kanji windows-31j",
    "cp949": "ks_c_5601-1987 korean windows-949 euc-kr",
    "iso2022_jp": "csiso2022jp",
    "iso2022_kr": "iso-2022-kr",
    "hz": "hz-gb-2312",
}


@pytest.mark.parametrize(("codec", "labels"), STANDARD.items())
def test_labels_of_the_standard_are_known_in_any_case_and_with_white_space(codec, labels):
    for label in labels.split():
        for form in (label, f" {label.upper()}\t"):
            assert charset_of(b"", form) == (codec, "http"), form


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
    charsets = ("utf-8", "utf-16", "gb18030", "big5hkscs", "euc_jp", "iso", "koi8", "cp", "mac-", "hz")
    assert all(codec.startswith(charsets) for codec in found)
    for codec in found:
        hostile = bytes(range(256)) * 300 + random.Random(0).randbytes(100_000)
        assert hostile.decode(codec, "ignore").encode()  # raises for half a surrogate pair


@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12)))
def test_any_bytes_with_any_label_are_decoded(body, label):
    codec, _ = charset_of(body, label)
    assert decode(body, codec).encode("utf-8", "strict") is not None


@pytest.mark.parametrize(
    ("body", "codec", "text"),
    [
        (b"\xad\xa1\xad\xea\xad\xf0\xfc\xf1", "euc_jp", "①㈱≒ⅰ"),  # golden values: the standard's jis0208
        (b"\x1b$B-!-j\x1b(B1", "iso2022_jp", "①㈱1"),
        (b"\xad<p>\xad", "euc_jp", "\ufffd<p>\ufffd"),
        (b"\x82<p>x\x87\x40", "cp932", "\ufffd<p>x①"),
        (b"\x81<p>\x810<p>", "gb18030", "\ufffd<p>\ufffd0<p>"),
        (b"\x81<p>", "big5hkscs", "\ufffd<p>"),
        (b"\x81<p>\xc7\xff<", "cp949", "\ufffd<p>\ufffd\ufffd<"),
        (b"\xe2\x82<p>", "utf-8", "\ufffd<p>"),
    ],
)
def test_a_bad_byte_costs_no_character_behind_it(body, codec, text):
    assert decode(body + b" " * 500, codec) == text + " " * 500


def test_the_wrong_charset_is_refused_and_a_bad_byte_is_not():
    assert is_undecodable(decode("日本語".encode("shift_jis") * 50, "utf-8"))
    assert not is_undecodable(decode(b"good text " * 50 + b"\xff", "utf-8"))


def test_what_is_undecodable_costs_no_more_than_itself():
    comment = "<!-- Όπου ο ποταμός -->".encode("iso-8859-7") * 300
    body = comment + "<p>Το βράδυ τα παιδιά περπατούν κοντά στο ποτάμι.</p>".encode()
    assert extract_text(body, "utf-8").text == "Το βράδυ τα παιδιά περπατούν κοντά στο ποτάμι."
    other = "<p>Όπου ο ποταμός</p>".encode("iso-8859-7") + "<p>Καλημέρα</p>".encode()
    assert extract_text(other, "utf-8") == ("Καλημέρα", "")
    assert extract_text("<p>Όπου ο ποταμός</p>".encode("iso-8859-7"), "utf-8") == ("", "undecodable")


@pytest.mark.parametrize(
    "start",
    [
        b"<meta" * 30 + b"charset=",
        b"<?xml encoding",
        b" ",
        b"<!--" * 50,
        b"<a <meta ",
        b"<a b='",
        b"<meta charset='",
    ],
)
def test_hostile_heads_take_linear_time(start):  # backtracking would take minutes
    charset_of((start + b" " * 1000) * 1000 + b"\xff", None)
    charset_of(start * 20_000 + b"\xff", None)
