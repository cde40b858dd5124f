import re
import struct

import fasttext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import classifiers
from pipeline.common.classifiers import LID_176, ask, fasttext_line, load_fasttext, read_labels
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

DIMENSIONS, LOSS, BUCKET, DICTIONARY = (
    8,
    32,
    40,
    64,
)  # places in the file: magic, version, twelve numbers and a learning rate


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


def test_labels_are_read_without_loading_a_model(model_file, language_id, tmp_path):
    assert sorted(read_labels(str(model_file))) == ["en", "fr"]
    assert set(read_labels(language_id)) == LID_176
    whole = model_file.read_bytes()
    for number, body in enumerate((b"", b"x" * 300, whole[:DICTIONARY], whole[: DICTIONARY + 60])):
        (tmp_path / f"{number}.bin").write_bytes(body)
        with pytest.raises(StageError, match="no fastText model, or a damaged one; fetch it again"):
            read_labels(str(tmp_path / f"{number}.bin"))


def test_known_models_need_no_trial(language_id, monkeypatch):
    monkeypatch.setattr(classifiers, "guarded", None)
    assert load_fasttext(language_id).get_dimension() == 16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: body[:DIMENSIONS] + struct.pack("<i", 2**30) + body[DIMENSIONS + 4 :], "other sizes than"),
        (lambda body: body[:BUCKET] + struct.pack("<i", 11) + body[BUCKET + 4 :], "other sizes than its words"),
        (lambda body: body[: DICTIONARY + 40], "other sizes than its words"),
        (lambda body: body[:-4], "other sizes than its words"),
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


def test_packed_models_are_known_to_be_whole(model_file, tmp_path):
    words = " ".join(f"w{i}" for i in range(300))
    (tmp_path / "text").write_text("".join(f"__label__l{i} {words}\n" for i in range(300)))
    trained = fasttext.train_supervised(str(tmp_path / "text"), dim=4, bucket=10, thread=1, verbose=0, epoch=1)
    trained.quantize(qnorm=True, qout=True)
    trained.save_model(str(tmp_path / "m.ftz"))
    assert ask(str(tmp_path / "m.ftz")) == 5
    body = (tmp_path / "m.ftz").read_bytes()
    (tmp_path / "m.ftz").write_bytes(body[:BUCKET] + struct.pack("<i", 11) + body[BUCKET + 4 :])
    with pytest.raises(ValueError, match="other sizes than its words"):
        ask(str(tmp_path / "m.ftz"))
