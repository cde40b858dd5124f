"""Bits per byte of any text, and its interval by document."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from device import DEVICE
from helpers import VOCABULARY, write_tokenizer
from tiny import make

from models.backbone import create_llama, load_tokenizer, save_backbone
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from train.data.texts import SCHEMA, _texts, open_corpus
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


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"text": "1 2"}\n{"texts": "3"}\n', r"a.jsonl, line 2: no JSON with a `text` \('text'\)"),
        ("a.jsonl", b'{"text": "1"}\n\n{"text": null}', r"a.jsonl, line 3: its `text` is no string \(None\)"),
        ("a.jsonl", b'{"text": 3}', r"a.jsonl, line 1: its `text` is no string \(3\)"),
        ("a.jsonl", b'{"text": ["1"]}', "a.jsonl, line 1: its `text` is no string"),
        ("a.jsonl", b"", "a.jsonl: no text in it"),
        ("a.jsonl", b'{"text": ""}\n', "a.jsonl: no text in it"),
        ("a.jsonl.gz", b'{"text": "1"}', "a.jsonl.gz: not a whole .gz file"),
        ("a.txt", b"\xff\xfe1", "a.txt: not UTF-8"),
        ("a.txt", "\ufeff".encode(), "a.txt: no text in it"),
        ("a.csv", b"1", "a.csv: neither .arrow, .jsonl, .txt"),
        ("a", b"1", "a: neither .arrow"),
        ("*.md", b"", r"\*.md: no such file; give rows"),
        ("", b"", "a folder; give the files in it"),
        ("b.arrow", b"", "b.arrow: no such file"),
    ],
)
def test_a_wrong_text_says_where(name: str, content: bytes, problem: str, backbone: str, tmp_path: Path) -> None:
    if name and "*" not in name and "b." not in name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=problem):
        open_corpus(str(tmp_path / name), backbone, str(tmp_path / "made"))


def test_files_of_two_kinds_are_not_one_text(backbone: str, tmp_path: Path) -> None:
    write(tmp_path, "jsonl")
    write(tmp_path, "arrow")
    with pytest.raises(StageError, match="arrow and other files"):
        open_corpus(f"{tmp_path}/*", backbone, str(tmp_path / "made"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.txt.gz"])
def test_text_of_any_system_is_read_to_the_byte(name: str, tmp_path: Path) -> None:
    """A byte order mark, ends of lines of Windows and of old Macs, empty lines, packed."""
    lines = "".join(f"{json.dumps({'text': text})}\r\n\r\n" for text in ("un\r\ndeux", "trois"))
    content = ("\ufeff" + (lines if "jsonl" in name else "un\r\ndeux\rtrois\n")).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert list(_texts(str(tmp_path / name))) == (
        ["un\r\ndeux", "trois"] if "jsonl" in name else ["un\r\ndeux\rtrois\n"]
    )


def test_rows_are_as_long_as_the_model_takes(tmp_path: Path) -> None:
    """Of learned positions there are no more; the tokenizer names no bound."""
    model = make("GPT2")
    model.config.n_positions, model.config.vocab_size = 24, VOCABULARY
    model = type(model)(model.config)
    save_backbone(model, load_tokenizer(write_tokenizer(tmp_path / "tokenizer")), tmp_path / "backbone")
    path = write(tmp_path, "jsonl")
    assert open_corpus(path, str(tmp_path / "backbone"), str(tmp_path / "made")).row_tokens == 24


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


@pytest.mark.parametrize("line", ['{"text": ' + "[" * 10**6, '{"text": 1e', '["text"]', "1" * 10_000])
def test_hostile_lines_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "un"}}\n{line}\n')
    with pytest.raises(StageError, match=r"a\.jsonl, line 2: no JSON with a `text`"):
        list(_texts(str(tmp_path / "a.jsonl")))


def test_half_a_surrogate_pair_is_no_text_and_said(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text('{"text": "un \\ud800 deux"}\n')
    assert list(_texts(str(tmp_path / "a.jsonl"))) == ["un ? deux"]
    assert "a.jsonl, line 1: half of a surrogate pair" in caplog.text
