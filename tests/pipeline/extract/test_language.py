import unicodedata

import pytest
from conftest import page, prose
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import StageError
from pipeline.extract.cascade import SAMPLE_CHARS, declared_language, guess, sample_words
from pipeline.extract.language import Wanted, check_languages, identify, load_model, wanted_languages
from pipeline.extract.options import Extract

GROUPS = Extract().language_groups


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
    assert " ".join(sample_words(body, "utf-8")) == "A café by the river, where it is quiet in the evening"


@pytest.mark.parametrize("codec", ["utf-8", "cp1252", "utf-16-le", "shift_jis", "iso2022_jp"])
def test_the_sample_is_the_same_in_every_charset(codec):
    text = (
        "日本語のページの長い文章です。文字コードは何でもよい。"
        if "jis" in codec or "jp" in codec
        else "où l’été dure "
    )
    body = f"<p>{text * 3}</p>".encode(codec)
    assert " ".join(sample_words(body, codec)) == (text * 3).strip()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"<", b">", b"<html", b" lang=", b"<p>", b"a" * 30, b"<!--", b"\0", b"&#x"])))
def test_any_bytes_give_a_short_sample(pieces):
    body = b"".join(pieces)
    assert len(" ".join(sample_words(body, "utf-8"))) <= SAMPLE_CHARS
    declared_language(body)


@pytest.mark.parametrize(
    "piece",
    [
        b"<html",
        b"<",
        b"<a ",
        b">" + b"x" * 19,
        b"<html lang",
        b"<select>",
        b"<svg><a title='>" + b"x" * 20,
        b"<html '",
    ],
)
def test_hostile_markup_takes_linear_time(piece):  # quadratic would not end today
    " ".join(sample_words(piece * 1_000_000, "utf-8"))
    declared_language(piece * 1_000_000)


def wanted(model, *languages) -> Wanted:
    return wanted_languages(model, languages, GROUPS)


def test_a_page_is_extracted_unless_every_wanted_language_is_improbable(model):
    french, german = page(prose("fr", 1)), wanted(model, "de")
    assert guess(model, french, "utf-8", wanted(model, "fr", "de"), 0.05) is None
    assert guess(model, french, "utf-8", german, 0.05) == "fr"
    assert guess(model, french.upper(), "utf-8", german, 0.05) == "fr"
    assert guess(model, b'<html lang="de-AT">' + french, "utf-8", german, 0.05) is None  # it says so itself
    assert guess(model, page(["court"]), "utf-8", german, 0.05) is None  # too little to tell


def test_a_page_that_begins_in_another_language_is_extracted(model):
    english, french = (" ".join(prose(language, 1)) for language in ("en", "fr"))
    half = page([english[:480], french[:480]])
    assert guess(model, half, "utf-8", wanted(model, "fr"), 0.02) is None
    assert guess(model, half, "utf-8", wanted(model, "en"), 0.02) is None
    assert guess(model, half, "utf-8", wanted(model, "de"), 0.02) in ("en", "fr")


def test_a_guess_of_which_nothing_is_probable_decides_nothing(model):
    names = page(["Qu wi zo er ty ui op as df gh jk lz xc vb nm " * 6])
    assert max(scores(model, " ".join(sample_words(names, "utf-8"))).values()) < 0.3
    assert guess(model, names, "utf-8", wanted(model, "de"), 0.02) is None


def test_the_sample_is_from_the_lower_half_of_the_page_too(model):
    menu = "".join(f"<li><a href='/{i}'>Read more about all the places in region {i}</a></li>" for i in range(60))
    body = f"<ul>{menu}</ul><p>{'Der Müller am Bach erzählt gern von früher. ' * 80}</p>".encode()
    assert "places" in " ".join(sample_words(body, "utf-8")) and "Bach" in " ".join(sample_words(body, "utf-8"))
    assert guess(model, body, "utf-8", wanted(model, "de"), 0.02) is None
    assert guess(model, body, "utf-8", wanted(model, "fi"), 0.02) is not None


@pytest.mark.parametrize(
    "noise",
    [
        "<script>if(a<b&&c>d){{function {0}}}</script>",
        '<script type="application/ld+json">{{"text":"<p>{0}</p>"}}</script>',
        "<SCRIPT>x('<style>')<p>{0}</SCRIPT>",
        "<style>a>b{{content:'{0}'}}</style>",
        "<!-- <p>{0}</p> -->",
        "<select><option>{0}<option>{0}</select>",
        "<textarea>{0}</textarea><template><p>{0}</p></template>",
        "<svg><desc>{0}</desc></svg><noscript><p>{0}</p></noscript>",
        '<a title="x > {0}" href=y>',
        '<a data-json=\'{{"<b>":"{0}"}}\'>',
    ],
)
def test_the_sample_has_only_what_a_reader_sees(noise):
    body = "<p>The text of the page is here, before." + noise.format("no text at all, and longer than 20") * 2
    body += "<p>And it goes on here, after all of it.</p>"
    assert " ".join(sample_words(body.encode(), "utf-8")) == (
        "The text of the page is here, before. And it goes on here, after all of it."
    )


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("<html lang=fr>", "fr"),
        ("<HTML class='a b' LANG = 'fr-FR' dir=ltr>", "fr"),
        ('<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="fr">', "fr"),
        ("<!--" + "x" * 9000 + '--><html lang="zh-Hans">', "zh"),
        ("<html lang=fra>", "fr"),
        ("<html lang=iw>", "he"),
        ("<html data-lang=fr>", None),
        ("<html><p lang=fr>", None),
        ('<html lang="">', None),
    ],
)
def test_the_language_that_a_page_declares(head, code):
    assert declared_language(head.encode()) == code


def test_scripts_and_styles_in_capitals_are_no_text():
    body = (
        b"<SCRIPT>var something = 'a long script that is no text';</SCRIPT>"
        b"<Style>p { color: red; margin: 0 auto }</Style><P>The text of the page, 30 > 20"
    )
    assert " ".join(sample_words(body, "utf-8")) == "The text of the page, 30 > 20"


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


def scores(model, text: str) -> dict[str, float]:
    from pipeline.extract.language import probabilities

    return probabilities(model, text, 5, 0.0)


@pytest.mark.parametrize("language", ["fr", "en"])
def test_capitals_and_decomposed_letters_change_nothing(model, language):
    text = "\n".join(prose(language, 1)) + " été à Noël"
    expected = identify(model, text, 1000)
    for other in (text.upper(), text.title(), unicodedata.normalize("NFD", text)):
        found, score = identify(model, other, 1000)
        assert (found, score) == (language, pytest.approx(expected[1], abs=0.02))


def test_text_of_many_marks_takes_linear_time(model):
    identify(model, "e\u0301\u0316" * 100_000, 1000)


def test_a_head_in_another_language_does_not_decide(model):
    french, english = ("\n".join("\n".join(prose(x, number)) for number in range(9)) for x in ("fr", "en"))
    assert identify(model, french[:1200] + english, 1000)[0] == "en"
    assert identify(model, english + french[:1200], 1000)[0] == "en"


# Our own sentences; the model divides its certainty among the languages of their group.
CLOSE = {
    "sr": "Deca su juče videla belog psa pored reke i dugo se smejala. Sutra treba da idu u grad po hleb i mleko, "
    "jer će voz stići tek posle podne.",
    "hr": "Djeca su jučer vidjela bijelog psa pokraj rijeke. Sutra moraju ići u grad po kruh i mlijeko, "
    "jer će vlak stići tek poslije podne.",
    "nn": "Borna såg ein kvit hund ved elva i går og lo lenge. I morgon må dei fara til byen for å kjøpa brød, "
    "og far skal vera heime.",
}


@pytest.mark.parametrize("language", CLOSE)
def test_languages_that_cannot_be_told_apart_share_their_probability(model, language):
    text = CLOSE[language]
    both = wanted(model, language, "en").groups
    assert language in both and "en" not in both
    found, score = identify(model, text, 1000, both)
    assert found == language
    assert score > 1.2 * identify(model, text, 1000)[1]


def test_the_best_of_the_wanted_ones_is_the_language_unless_the_model_knows_better(model):
    serbian = CLOSE["sr"]
    assert identify(model, serbian, 1000, wanted(model, "hr", "sr").groups)[0] == "sr"
    assert identify(model, serbian, 1000, wanted(model, "sh").groups)[0] == "sh"
    cyrillic = "Деца су јуче видела белог пса поред реке и дуго се смејала. Сутра иду у град."
    assert identify(model, cyrillic, 1000, wanted(model, "hr").groups)[0] == "sr"
    assert identify(model, "The cat sleeps on the chair.", 1000, wanted(model, "hr").groups)[0] == "en"
    town = (
        "Grad se nalazi na obali reke i ima oko dvadeset hiljada stanovnika. Opština se prostire na dvesta "
        "kilometara i obuhvata trideset sela. Prema popisu iz prošlog veka je živelo više stanovnika nego danas."
    )
    assert identify(model, town, 1000, {})[0] == "sh"
    assert identify(model, town, 1000, wanted(model, "hr", "sr").groups)[0] == "sr"


def test_a_language_without_a_label_is_refused_with_those_that_are_near(language_id):
    check_languages(["fr", "sh"], language_id)
    with pytest.raises(StageError, match=r"extract.languages: .*'fra_Latn'; did you mean fr\?"):
        check_languages(["en", "fra_Latn"], language_id)


def test_labels_of_other_models_are_matched_by_their_codes():
    class Model:
        def get_labels(self):
            return [
                f"__label__{x}" for x in ("hrv_Latn", "bos_Latn", "srp_Latn", "fra_Latn", "nob_Latn", "nno_Latn")
            ]

    found = wanted_languages(Model(), ["srp_Latn", "fra_Latn", "nob_Latn"], GROUPS)
    assert found.groups == {
        "srp_Latn": {"hrv_Latn", "bos_Latn", "srp_Latn"},
        "nob_Latn": {"nob_Latn", "nno_Latn"},
    }
    assert found.codes == {"hr", "bs", "sr", "fr", "nb", "nn"}
