"""Bits per byte of any text, and its interval by document."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from device import DEVICE
from helpers import write_tokenizer

from models.backbone import create_llama, load_tokenizer, save_backbone
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from train.data.texts import SCHEMA, _texts, open_corpus
from train.evaluation.bits_per_byte import bootstrap
from train.evaluation.evaluate import evaluate
from train.evaluation.options import Evaluate

TEXTS = [" ".join(str(1 + (7 * d + i * i) % 20) for i in range(30 + 20 * d)) for d in range(6)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer"))
    tokenizer.model_max_length = 32
    model = create_llama(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=len(tokenizer), row_tokens=32, seed=3
    )
    save_backbone(model, tokenizer, folder / "backbone")
    return str(folder / "backbone")


def write(folder: Path, kind: str) -> str:
    if kind == "txt":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text)
        return str(folder / "*.txt")
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        return str(folder / "a.jsonl")
    for number, part in enumerate((TEXTS[:2], TEXTS[2:])):
        write_arrow(folder / f"fr-{number}.arrow", SCHEMA, ({"text": text, "url": "u"} for text in part))
    return str(folder / "fr-*.arrow")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "arrow"])
def test_every_kind_of_text_gives_the_same_rows(kind: str, backbone: str, tmp_path: Path) -> None:
    rows = open_corpus(write(tmp_path, kind), backbone, str(tmp_path / "made"))
    assert rows.row_tokens == 32
    indices = np.arange(len(rows))
    assert rows.bytes(indices).sum() == sum(map(len, TEXTS))
    assert rows.metadata["documents"] == len(TEXTS)
    again = open_corpus(str(tmp_path / "made" / "rows.arrow"), backbone, "unused")
    assert again.digest() == rows.digest()


def test_a_wrong_text_says_where(backbone: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "1 2"}\n{"texts": "3"}\n')
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe1")
    for name, problem in (
        ("a.jsonl", r"a.jsonl, line 2: no JSON with a `text` \('text'\)"),
        ("a.txt", "a.txt: not UTF-8"),
        ("b.txt", "b.txt: no such file; give rows"),
        ("b.arrow", "b.arrow: no such rows file"),
    ):
        with pytest.raises(StageError, match=problem):
            open_corpus(str(tmp_path / name), backbone, str(tmp_path / "made"))


def test_a_file_with_brackets_in_its_name_is_found_by_it(backbone: str, tmp_path: Path) -> None:
    Path(write(tmp_path, "jsonl")).rename(tmp_path / "a[1].jsonl")
    assert len(open_corpus(f"{tmp_path}/a[1].jsonl", backbone, str(tmp_path / "made")))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [(["a.jsonl"], "--rows a.jsonl: expected DOMAIN=PATH"), (["a=b", "a=c"], "--rows a=c: a is b already")],
)
def test_texts_without_a_name_of_their_own_are_refused(rows: list[str], problem: str) -> None:
    with pytest.raises(StageError, match=problem):
        evaluate(Evaluate(), "none", None, rows, "none", None)


def test_a_text_is_evaluated_with_an_interval(backbone: str, tmp_path: Path) -> None:
    texts = write(tmp_path, "txt")
    for name in ("a", "b"):
        options = Evaluate(device=DEVICE.type, prompts=[])
        rows = [f"many={texts}", f"one={tmp_path}/5.txt"]
        evaluate(options, backbone, None, rows, str(tmp_path / f"{name}.json"), None)
    domains = json.loads((tmp_path / "a.json").read_text())["domains"]
    assert domains["many"]["bpb_low"] < domains["many"]["bpb"] < domains["many"]["bpb_high"]
    assert domains["one"]["bpb_low"] == pytest.approx(domains["one"]["bpb"]) == domains["one"]["bpb_high"]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        size = random.integers(50, 150, 60).astype(float)
        rate = random.normal(1.0, 0.3, 60)  # nats per byte of each document, whose rows are alike
        rows = np.repeat(np.arange(60), 3)
        low, high = bootstrap((rate * size)[rows] / 3, size[rows] / 3, rows, 300, trial)
        inside += low <= 1 / math.log(2) <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_rows_of_a_document_are_drawn_together() -> None:
    random = np.random.default_rng(1)
    rate = random.normal(1.0, 0.3, 40)
    narrow = bootstrap(np.repeat(rate, 25), np.ones(1000), np.arange(1000))
    wide = bootstrap(np.repeat(rate, 25), np.ones(1000), np.repeat(np.arange(40), 25))
    assert np.diff(wide) > 3 * np.diff(narrow)


@pytest.mark.parametrize("line", ['{"text": ' + "[" * 10**6, '{"text": 1e', '["text"]', "1" * 10_000])
def test_hostile_lines_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "un"}}\n{line}\n')
    with pytest.raises(StageError, match=r"a\.jsonl, line 2: no JSON with a `text`"):
        list(_texts(str(tmp_path / "a.jsonl")))


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "un \\ud800 deux"}\n')
    assert list(_texts(str(tmp_path / "a.jsonl"))) == ["un ? deux"]
