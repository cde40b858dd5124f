from pathlib import Path

import numpy as np
import pytest
from helpers import LENGTH, language, write_rows

from pipeline.common.errors import StageError
from train.data.rows import open_rows


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


def test_rows_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no rows in it"):
        open_rows(write_rows(tmp_path / "rows.arrow", language(1, 0)))


def test_digest_tells_rows_apart(tmp_path: Path) -> None:
    one = open_rows(write_rows(tmp_path / "one.arrow", language(1, 20)))
    same = open_rows(write_rows(tmp_path / "same.arrow", language(1, 20), batch=3))
    other = open_rows(write_rows(tmp_path / "other.arrow", language(1, 20, seed=1)))
    assert one.digest() == same.digest() != other.digest()
