import pytest
from conftest import page, prose
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.cascade import SAMPLE_CHARS, declared_language, guess, sample_text
from pipeline.extract.language import identify, load_model


@pytest.fixture(scope="module")
def model(language_id):
    return load_model(language_id)


def test_the_sample_is_text_and_no_markup():
    body = (
        b"<html><head><style>p { color: red; margin: 0 auto; padding: 3px }</style>"
        b"<script>var something = 'a long script that is no text at all';</script></head>"
        b"<!-- a comment that is quite long and not for people --><ul><li>Home</li></ul>"
        b"<p>A caf&eacute; by the river, where it is <b>quiet in the evening</b> and so on.</p></html>"
    )
    assert sample_text(body, "utf-8") == "A café by the river, where it is quiet in the evening"


@pytest.mark.parametrize("codec", ["utf-8", "cp1252", "utf-16-le", "shift_jis", "iso2022_jp"])
def test_the_sample_is_the_same_in_every_charset(codec):
    text = (
        "日本語のページの長い文章です。文字コードは何でもよい。"
        if "jis" in codec or "jp" in codec
        else "où l’été dure "
    )
    body = f"<p>{text * 3}</p>".encode(codec)
    assert sample_text(body, codec) == (text * 3).strip()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"<", b">", b"<html", b" lang=", b"<p>", b"a" * 30, b"<!--", b"\0", b"&#x"])))
def test_any_bytes_give_a_short_sample(pieces):
    body = b"".join(pieces)
    assert len(sample_text(body, "utf-8")) <= SAMPLE_CHARS
    declared_language(body)


@pytest.mark.parametrize("piece", [b"<html", b"<", b"<a ", b">" + b"x" * 19, b"<html lang"])
def test_hostile_markup_takes_linear_time(piece):  # quadratic would not end today
    sample_text(piece * 1_000_000, "utf-8")
    declared_language(piece * 1_000_000)


def test_a_page_is_extracted_unless_every_wanted_language_is_improbable(model):
    french = page(prose("fr", 1))
    assert guess(model, french, "utf-8", ["fr", "de"], 0.05) is None
    assert guess(model, french, "utf-8", ["de"], 0.05) == "fr"
    assert guess(model, b'<html lang="de-AT">' + french, "utf-8", ["de"], 0.05) is None  # it says so itself
    assert guess(model, page(["court"]), "utf-8", ["de"], 0.05) is None  # too little to tell


def test_a_page_that_begins_in_another_language_is_extracted(model):
    english, french = (" ".join(prose(language, 1)) for language in ("en", "fr"))
    half = page([english[:480], french[:480]])
    assert guess(model, half, "utf-8", ["fr"], 0.02) is None
    assert guess(model, half, "utf-8", ["en"], 0.02) is None
    assert guess(model, half, "utf-8", ["de"], 0.02) in ("en", "fr")


def test_scripts_and_styles_in_capitals_are_no_text():
    body = (
        b"<SCRIPT>var something = 'a long script that is no text';</SCRIPT>"
        b"<Style>p { color: red; margin: 0 auto }</Style><P>The text of the page, 30 > 20"
    )
    assert sample_text(body, "utf-8") == "The text of the page, 30 > 20"


def test_a_doubtful_beginning_leaves_it_to_the_whole_text(model):
    french, english = "\n".join(prose("fr", 1)), "\n".join(prose("en", 1))
    assert identify(model, french, 100)[0] == "fr"
    mixed = "menu 12 34 ok 56\n" * 4 + french * 3
    assert identify(model, mixed, 60) == identify(model, mixed, 100_000)
    language, score = identify(model, english, 3000)
    assert language == "en"
    assert 0 < score <= 1


def test_a_text_of_nothing_has_no_language(model):
    assert identify(model, "", 100)[1] <= 1
