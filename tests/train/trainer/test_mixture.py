from fractions import Fraction

import numpy as np
import pytest
from helpers import language, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import StageError
from train.data.rows import open_rows
from train.runs.options import Pretrain, Run
from train.trainer.mixture import batches, is_measured, mixture, old_rows_before


def run(rate: float = 0.1, batch_rows: int = 8, seed: int = 0) -> Run:
    return Run(learning_rate=1e-3, old_rate=rate, batch_rows=batch_rows, seed=seed)


@settings(max_examples=60, deadline=None)
@given(thousandths=st.integers(0, 1000), steps=st.integers(1, 30), batch_rows=st.integers(1, 20))
def test_rate_is_exact_to_one_row_at_every_step(thousandths: int, steps: int, batch_rows: int) -> None:
    options, exact = run(thousandths / 1000, batch_rows), Fraction(thousandths, 1000)
    old = 0
    for step in range(steps):
        draw = mixture(step, options, 5, 7)
        for is_old in draw.is_old:
            old += int(is_old)
        seen = (step + 1) * batch_rows
        assert old == seen * exact // 1
        assert len(draw.index) == batch_rows


@settings(max_examples=60, deadline=None)
@given(thousandths=st.integers(0, 1000), ten=st.integers(0, 99), batch_rows=st.integers(1, 20))
def test_of_ten_steps_old_and_new_rows_are_measured_once(thousandths: int, ten: int, batch_rows: int) -> None:
    options, steps = run(thousandths / 1000, batch_rows), range(10 * ten, 10 * ten + 10)
    old = {step: int(mixture(step, options, 5, 7).is_old.sum()) for step in steps}
    measured = [step for step in steps if is_measured(step, options, 10)]
    assert 1 <= len(measured) <= 2
    assert any(old[step] for step in measured) == any(old.values())
    assert any(old[step] < batch_rows for step in measured) == any(x < batch_rows for x in old.values())


def test_gates_on_old_rows_are_measured_where_every_tenth_step_has_none() -> None:
    options = run(0.1, batch_rows=8)
    assert not any(mixture(step, options, 5, 7).is_old.any() for step in range(0, 200, 10))
    assert [step for step in range(30) if is_measured(step, options, 10)] == [0, 1, 10, 11, 20, 21]


def test_rate_does_not_drift() -> None:
    assert old_rows_before(10**15, Fraction("0.1")) == 10**14
    # In floating point 0.1 is a little more than a tenth, and 3 * 0.1 more than 0.3.
    assert mixture(0, run(0.1, 10), 1, 1).is_old.tolist() == [False] * 9 + [True]


@settings(max_examples=40, deadline=None)
@given(step=st.integers(0, 10**6), world=st.integers(1, 5), seed=st.integers(0, 5))
def test_ranks_partition_the_rows_of_a_step(step: int, world: int, seed: int) -> None:
    options = run(0.3, 11, seed)
    whole = mixture(step, options, 5, 7)
    parts = [mixture(step, options, 5, 7, rank, world) for rank in range(world)]
    first = step * 11
    for rank, part in enumerate(parts):
        mine = [k - first for k in range(first, first + 11) if k % world == rank]
        assert np.array_equal(part.index, whole.index[mine])
        assert np.array_equal(part.is_old, whole.is_old[mine])
    assert sum(len(part.index) for part in parts) == 11


def test_each_epoch_has_every_row_once_in_another_order() -> None:
    options = Pretrain(learning_rate=1e-3, batch_rows=4)
    drawn = np.concatenate([mixture(step, options, 0, 10).index for step in range(5)])
    first, second = drawn[:10].tolist(), drawn[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    other = Pretrain(learning_rate=1e-3, batch_rows=10, seed=1)
    assert mixture(0, other, 0, 10).index.tolist() != first


def test_batches_are_a_function_of_the_step() -> None:
    forward = [mixture(step, run(), 5, 7) for step in range(6)]
    for step in (4, 1, 5, 0):
        again = mixture(step, run(), 5, 7)
        assert np.array_equal(again.index, forward[step].index)
        assert np.array_equal(again.is_old, forward[step].is_old)


def test_a_domain_without_rows_is_refused() -> None:
    with pytest.raises(StageError, match="no rows"):
        mixture(0, run(0.1), 0, 5)
    assert not mixture(0, run(0.0), 0, 5).is_old.any()


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 11), world=st.sampled_from([1, 2, 4]), rate=st.sampled_from([0.0, 0.1, 0.37]))
def test_batches_begun_at_any_step_are_those_of_the_whole(
    files: tuple[str, str], first: int, world: int, rate: float
) -> None:
    options = Run(learning_rate=1e-3, old_rate=rate, batch_rows=8, steps=12)
    old, new = map(open_rows, files)
    for rank in range(world):
        for step, batch in enumerate(batches(first, options, old, new, rank, world), first):
            draw = mixture(step, options, len(old), len(new))
            source = [(old if is_old else new) for is_old in draw.is_old]
            rows = np.array([one.tokens(np.array([i]))[0] for one, i in zip(source, draw.index, strict=True)])
            assert np.array_equal(batch.tokens_BT1, rows[rank::world])
            assert (batch.rows, batch.old_rows) == (8, int(draw.is_old.sum()))
        assert step == 11


def test_a_reader_that_fails_says_so(files: tuple[str, str]) -> None:
    options = Run(learning_rate=1e-3, old_rate=0.5, batch_rows=8)
    with pytest.raises(StageError, match="no rows"):
        next(batches(0, options, None, open_rows(files[1])))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("files")
    old = write_rows(folder / "old.arrow", language(1, 13))
    return old, write_rows(folder / "new.arrow", language(5, 17, seed=1))
