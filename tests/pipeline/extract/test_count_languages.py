"""How many documents there are of each language, and what is said where there are few."""

from __future__ import annotations

import pytest

from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from pipeline.common.ledger import Ledger
from pipeline.extract.count_languages import FEW, LEAST, count_languages


def ledger(path, languages, dropped):
    book = Ledger("extract")
    for language, count in languages.items():
        book.language(language, documents=count)
        book.enter(documents=count)
        book.keep(documents=count)
    for reason, count in dropped.items():
        book.enter(documents=count)
        book.drop(reason, documents=count)
    book.write(path)
    return str(path)


def test_each_language_is_counted_over_all_ledgers_and_few_are_explained(tmp_path, capsys):
    parts = [
        ledger(tmp_path / "0.json", {"fr": FEW, "br": 1, "en": 20}, {"text_too_short": 4}),
        ledger(tmp_path / "1.json", {"br": 2, "en": 30}, {"text_too_short": 1, "http_status": 9}),
    ]
    count_languages(parts, ["fr", "br", "de"], ["fr", "br"], str(tmp_path / "out.json"))
    lines = capsys.readouterr().out.splitlines()
    total = FEW + 67
    left_out = "left out: 9 http_status, 5 text_too_short"
    assert lines == [
        f"fr: 100 of {total} documents",
        f"br: 3 of {total} documents; in others: 100 fr, 50 en; {left_out}",
        f"de: 0 of {total} documents; in others: 100 fr, 50 en, 3 br; {left_out}",
    ]
    assert read_json(tmp_path / "out.json") == {"documents": total, "languages": {"fr": FEW, "br": 3, "de": 0}}
    for needed in (["de"], ["br", "de"]):
        with pytest.raises(StageError, match=r"^de: 0 of .* 50 en, .*check the label in .*language_min_score"):
            count_languages(parts, ["fr", "br", "de"], needed, str(tmp_path / "none.json"))
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize("count", range(4))
def test_two_documents_are_the_least(tmp_path, count):
    part = ledger(tmp_path / "0.json", {"br": count}, {})
    if count < LEAST:
        with pytest.raises(StageError, match=f"br: {count} of {count} documents"):
            count_languages([part], ["br"], ["br"], str(tmp_path / "out.json"))
    else:
        count_languages([part], ["br"], ["br"], str(tmp_path / "out.json"))
