"""Languages by name and by code."""

from __future__ import annotations

import pytest

from pipeline.common.classifiers import LID_176
from pipeline.common.language_codes import NAMES, iso_code, named, near_labels, three_letters
from pipeline.crawl.options import Index


def test_every_language_of_the_default_model_has_a_name_of_its_own():
    assert set(NAMES.values()) == LID_176
    assert not LID_176.intersection(NAMES)


def test_names_are_those_that_others_have():
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    codes = {name: code for code, name in whisper.LANGUAGES.items() if code in LID_176}
    assert len(codes) > 90
    assert {name: named(name) for name in codes} == codes
    aliases = {
        name: code for name, code in whisper.TO_LANGUAGE_CODE.items() if code in codes.values() and named(name)
    }
    assert {name: named(name) for name in aliases} == aliases


@pytest.mark.parametrize(
    ("written", "meant"),
    [("french", "fr"), ("Français", "fr"), ("fra", "fr"), ("fre", "fr"), ("fr-CA", "fr"), ("fra_Latn", "fr"),
     ("Frensh", "fr"), ("  low  German", "nds"), ("brezhoneg", "br")],
)  # fmt: skip
def test_a_label_is_found_by_what_people_write_for_it(written, meant):
    assert near_labels(written, LID_176) == [meant]
    assert [iso_code(label) for label in near_labels(written, ["fra_Latn", "bre_Latn", "nds_Latn"])] == [meant]


def test_what_is_near_nothing_is_not_guessed():
    assert near_labels("xx", LID_176) == near_labels("Klingonese", LID_176) == []
    assert near_labels("fra_Latin", ["fra_Latn", "fro_Latn", "deu_Latn"]) == ["fra_Latn"]


def test_every_code_of_the_index_is_taken_and_another_gets_the_one_it_stands_for():
    for label in LID_176 - {"eml", "als"}:  # which ISO 639-3 has no more, and a name of Wikipedia's
        code = three_letters(label)
        assert code is not None and three_letters(code) == code
    given = ["French", "de", "ger", "hbs", "zho", "xyzzy"]
    problems = dict(Index(crawl="CC-MAIN-2026-30", languages=given).problems())
    cures = {key: problem.partition("(ISO 639-3): ")[2] for key, problem in problems.items()}
    assert cures == {
        "languages[0]": "did you mean fra?",
        "languages[1]": "did you mean deu?",
        "languages[2]": "did you mean deu?",
        "languages[5]": "such as fra",
    }
