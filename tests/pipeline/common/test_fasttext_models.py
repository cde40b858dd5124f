import struct

import fasttext
import pytest

from pipeline.common import fasttext_models
from pipeline.common.errors import StageError
from pipeline.common.fasttext_models import load_fasttext
from pipeline.common.guard import guarded

DIMENSIONS, LOSS, DICTIONARY = 8, 32, 64  # places in the file: magic, version, twelve numbers and a learning rate


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fasttext")
    (folder / "text").write_text("__label__fr le chat dort\n__label__en the cat sleeps\n" * 20)
    trained = fasttext.train_supervised(str(folder / "text"), dim=4, bucket=10, thread=1, verbose=0)
    trained.save_model(str(folder / "model.bin"))
    return folder / "model.bin"


def test_a_sound_model_is_loaded_after_its_trial(model, monkeypatch):
    tried = []
    monkeypatch.setattr(fasttext_models, "guarded", lambda *a, **k: tried.append(guarded(*a, **k)))
    assert load_fasttext(str(model)).predict("le chat dort")[0] == ("__label__fr",)
    assert tried == [2]


def test_known_models_need_no_trial(language_id, monkeypatch):
    monkeypatch.setattr(fasttext_models, "guarded", None)
    assert load_fasttext(language_id).get_dimension() == 16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: body[:DIMENSIONS] + struct.pack("<i", 2**30) + body[DIMENSIONS + 4 :], "it takes more than"),
        (lambda body: body[:LOSS] + struct.pack("<i", 99) + body[LOSS + 4 :], "Unknown loss"),
        (
            lambda body: body[:DICTIONARY] + struct.pack("<i", -5) + body[DICTIONARY + 4 :],
            r"model\.bin: no fastText",
        ),
        (lambda body: b"", "wrong file format"),
    ],
)
def test_a_damaged_model_costs_this_process_nothing(model, tmp_path, damage, message):
    path = tmp_path / "model.bin"
    path.write_bytes(damage(model.read_bytes()))
    with pytest.raises(StageError, match=message) as error:
        load_fasttext(str(path))
    assert "\n" not in str(error.value)


def test_reading_without_end_ends(model, tmp_path):
    (tmp_path / "cut.bin").write_bytes(model.read_bytes()[: DICTIONARY + 40])
    with pytest.raises(StageError, match=r"not done after 1 s|takes more than"):
        guarded("pipeline.common.fasttext_models:ask", str(tmp_path / "cut.bin"), seconds=1, memory=2**30)
