import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import LENGTH, language, write_rows
from tiny import make

from models.positions import longest_text
from pipeline.common.errors import StageError
from train.data.rows import check_length, open_rows


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    tokens = language(1, 20)
    rows = open_rows(write_rows(tmp_path / "rows.arrow", tokens, batch=7))
    assert (len(rows), rows.row_tokens) == (20, LENGTH)
    indices = np.array([19, 0, 7, 6, 7])
    assert np.array_equal(rows.tokens(indices), tokens[indices])
    assert np.array_equal(rows.documents(indices), indices)
    assert rows.bytes(indices).tolist() == [2 * LENGTH] * 5


def test_rows_are_views_of_the_file(tmp_path: Path) -> None:
    rows = open_rows(write_rows(tmp_path / "rows.arrow", language(1, 20)))
    assert not any(array.flags.owndata or array.flags.writeable for batch in rows.batches for array in batch)


@pytest.mark.parametrize(
    "content, message", [(None, "no such rows file"), (b"ARROW1 what", "not a file of packed")]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "rows.arrow").write_bytes(content)
    with pytest.raises(StageError, match=message):
        open_rows(str(tmp_path / "rows.arrow"))


@pytest.mark.parametrize(
    "changes",
    [
        {"row_tokens": LENGTH - 1},
        {"row_tokens": 10**12},
        {"row_tokens": "8"},
        {"vocabulary": 0},
        {"vocabulary": 2**20},  # its tokens would be uint32
        {"special_ids": ["a"]},
        {"separator": -1},
        {"beginning": 1},
        {"unlearned_ids": [-1]},
        {"tokenizer_sha256": None},
        {"sites": {"names": ["a"], "documents": "AAAB"}},  # the third is of a site without a name
        {"sites": {"names": [1], "documents": "AAAA"}},
        {"sites": "a"},
    ],
    ids=str,
)
def test_rows_that_are_not_as_their_metadata_say_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(StageError, match=r"rows\.arrow: not a file of packed rows \(") as error:
        open_rows(write_rows(tmp_path / "rows.arrow", language(1, 20), **changes))
    assert "\n" not in str(error.value)


def test_a_token_beyond_the_vocabulary_is_refused_when_it_is_read(tmp_path: Path) -> None:
    tokens = language(1, 20)
    tokens[12, 3] = 200
    rows = open_rows(write_rows(tmp_path / "rows.arrow", tokens, vocabulary=100))
    assert rows.tokens(np.arange(12)).max() < 100
    with pytest.raises(StageError, match=r"rows\.arrow: token 200 in a vocabulary of 100 entries"):
        rows.tokens(np.array([3, 12]))


def test_rows_that_are_cut_off_or_damaged_are_refused_or_read(tmp_path: Path) -> None:
    """Their columns have no offsets, so that a changed value can only be another token."""
    path = Path(write_rows(tmp_path / "rows.arrow", language(1, 20)))
    data, rng = path.read_bytes(), random.Random(0)
    for number in range(300):
        changed = bytearray(data)
        place = rng.randrange(len(data))
        changed[place : place + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, b"\0\0\0\x7f"])
        path.write_bytes(changed if number % 3 else data[:place])
        with contextlib.suppress(StageError):
            rows = open_rows(str(path))
            assert number % 3 and rows.tokens(np.arange(len(rows))).max() < rows.metadata["vocabulary"]


def test_rows_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no rows in it"):
        open_rows(write_rows(tmp_path / "rows.arrow", language(1, 0)))


def test_digest_tells_rows_apart(tmp_path: Path) -> None:
    one = open_rows(write_rows(tmp_path / "one.arrow", language(1, 20)))
    same = open_rows(write_rows(tmp_path / "same.arrow", language(1, 20), batch=3))
    other = open_rows(write_rows(tmp_path / "other.arrow", language(1, 20, seed=1)))
    assert one.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(("name", "refused"), [("GPT2", True), ("Llama", False)])
def test_rows_longer_than_the_model_takes(
    name: str, refused: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(name)
    most = longest_text(model.config)
    assert most is not None
    for length, kept in ((most, True), (most + 1, not refused)):
        rows = open_rows(write_rows(tmp_path / f"{length}.arrow", np.ones((1, length + 1), np.int64)))
        caplog.clear()
        with contextlib.nullcontext() if kept else pytest.raises(StageError, match=f"row_tokens {most} or less"):
            check_length(rows, model, "backbone")
        assert (f"rows of {length} tokens, but backbone is made for {most}" in caplog.text) == (
            kept and length > most
        )
