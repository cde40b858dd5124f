import re
import struct

import fasttext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import classifiers
from pipeline.common.classifiers import fasttext_line, load_fasttext
from pipeline.common.errors import StageError
from pipeline.common.guard import guarded
from pipeline.extract.language import identify

PIECES = [
    "__label__good",
    "__label__",
    "</s>",
    "</s>x",
    "a</s>",
    "mot",
    "été",
    " ",
    "\n",
    "\r",
    "\v",
    "\0",
    "\x85",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_every_word_of_a_text_is_a_word_of_the_line(text):
    words = re.split("[ \n\r\t\v\f\0]+", text.strip(" \n\r\t\v\f\0")) if text.strip(" \n\r\t\v\f\0") else []
    seen = fasttext.tokenize(fasttext_line(text))  # as fastText's own reader finds them
    assert [word.removeprefix("\\") for word in seen] == words
    assert not [word for word in seen if word.startswith("__label__") or word == "</s>"]
    if seen == words:  # no control word
        assert fasttext_line(text) == text.replace("\n", " ")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    examples = tmp_path_factory.mktemp("fasttext") / "examples.txt"
    lines = (f"__label__fr un deux trois {i % 7}\n__label__en one two three {i % 7}\n" for i in range(200))
    examples.write_text("".join(lines))
    return fasttext.train_supervised(str(examples), dim=8, epoch=20, thread=1, verbose=0)


@pytest.mark.parametrize("control", ["</s>", "\n</s>\n", "__label__fr </s>"])
def test_a_page_cannot_end_the_text_that_its_language_is_told_from(model, control):
    assert identify(model, f"un deux {control} one two three one two three", 1000)[0] == "en"


# Models from elsewhere --------------------------------------------------------------------------

DIMENSIONS, LOSS, DICTIONARY = 8, 32, 64  # places in the file: magic, version, twelve numbers and a learning rate


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fasttext")
    (folder / "text").write_text("__label__fr le chat dort\n__label__en the cat sleeps\n" * 20)
    trained = fasttext.train_supervised(str(folder / "text"), dim=4, bucket=10, thread=1, verbose=0)
    trained.save_model(str(folder / "model.bin"))
    return folder / "model.bin"


def test_a_sound_model_is_loaded_after_its_trial(model_file, monkeypatch):
    tried = []
    monkeypatch.setattr(classifiers, "guarded", lambda *a, **k: tried.append(guarded(*a, **k)))
    assert load_fasttext(str(model_file)).predict("le chat dort")[0] == ("__label__fr",)
    assert tried == [2]


def test_known_models_need_no_trial(language_id, monkeypatch):
    monkeypatch.setattr(classifiers, "guarded", None)
    assert load_fasttext(language_id).get_dimension() == 16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: body[:DIMENSIONS] + struct.pack("<i", 2**30) + body[DIMENSIONS + 4 :], "takes more than"),
        (lambda body: body[:LOSS] + struct.pack("<i", 99) + body[LOSS + 4 :], "Unknown loss"),
        (
            lambda body: body[:DICTIONARY] + struct.pack("<i", -5) + body[DICTIONARY + 4 :],
            r"model\.bin: no fastText",
        ),
        (lambda body: b"", "wrong file format"),
    ],
)
def test_a_damaged_model_costs_this_process_nothing(model_file, tmp_path, damage, message):
    path = tmp_path / "model.bin"
    path.write_bytes(damage(model_file.read_bytes()))
    with pytest.raises(StageError, match=message) as error:
        load_fasttext(str(path))
    assert "\n" not in str(error.value)


def test_reading_without_end_ends(model_file, tmp_path):
    (tmp_path / "cut.bin").write_bytes(model_file.read_bytes()[: DICTIONARY + 40])
    with pytest.raises(StageError, match="takes more than"):
        guarded("pipeline.common.classifiers:ask", str(tmp_path / "cut.bin"), seconds=1, memory=2**30)
