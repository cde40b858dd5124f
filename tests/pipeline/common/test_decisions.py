import json
import tempfile
from pathlib import Path

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.decisions import DROPPED, FAILED, KEPT, UNITS, Decisions, read_decisions
from pipeline.common.errors import StageError
from pipeline.common.files import write_batches
from pipeline.common.ledger import Ledger, LedgerError, merge
from pipeline.common.schemas import DECISION_SCHEMA

COUNT = st.integers(0, 2**40)
ROW = st.fixed_dictionaries(
    {"documents": COUNT, "paragraphs": COUNT, "bytes": COUNT},
    optional={
        "language": st.sampled_from(["fr", "br", "zh_Hans"]),
        "score": st.floats(0, 1, width=32),
        "file": st.text(max_size=5),
        "place": COUNT,
        "url": st.text(max_size=9),
    },
)
VERDICT = st.one_of(
    st.just((KEPT, None)),
    st.tuples(st.sampled_from([DROPPED, FAILED]), st.sampled_from(["a", "b", "kept", "contaminated:x"])),
)


def ledger_of(rows) -> Ledger:
    ledger = Ledger("stage")
    for (fate, reason), row in rows:
        ledger.enter(**{unit: row[unit] for unit in UNITS})
        {KEPT: ledger.keep, DROPPED: ledger.drop, FAILED: ledger.fail}[fate](*filter(None, [reason]), **row)
    return ledger


@settings(max_examples=60)
@given(st.lists(st.tuples(VERDICT, ROW), max_size=30))
def test_a_written_ledger_is_the_sum_of_its_rows_by_another_reader(rows):
    with tempfile.TemporaryDirectory() as folder:
        ledger_of(rows).write(f"{folder}/l.json", f"{folder}/d.arrow")
        ledger = json.loads(Path(folder, "l.json").read_text())
        table = polars.read_ipc_stream(f"{folder}/d.arrow")
    for unit in UNITS:
        assert ledger["in"][unit] == sum(row[unit] for _, row in rows) == table[unit].sum()
        for fate in (KEPT, DROPPED, FAILED):
            of_fate = table.filter(polars.col("fate") == fate)
            if fate == KEPT:
                assert ledger["kept"][unit] == of_fate[unit].sum()
                continue
            sums = dict(of_fate.group_by("reason").agg(polars.col(unit).sum()).iter_rows())
            assert {reason: counts[unit] for reason, counts in ledger[fate].items()} == sums
    for name in ("language", "score", "file", "place"):
        assert table[name].to_list() == [row.get(name) for _, row in rows]
    assert [url is None for url in table["url"]] == ["url" not in row for _, row in rows]


@given(st.lists(st.lists(st.tuples(VERDICT, ROW), max_size=8), max_size=4))
def test_the_parts_of_a_ledger_give_the_whole(parts):
    whole = ledger_of([row for part in parts for row in part])
    ledgers = list(map(ledger_of, parts))
    joined = Ledger("stage")
    for part in ledgers:
        joined.include(part.data(), part.decisions.batches())
    assert joined.data() == whole.data()
    assert [b.to_pylist() for b in joined.decisions.batches()] == [
        b.to_pylist() for b in whole.decisions.batches()
    ]
    sums = merge("stage", (part.data() for part in ledgers)).data()
    assert sums == whole.data() | {"dropped": sums["dropped"], "failed": sums["failed"]}
    assert {fate: sums[fate] for fate in (DROPPED, FAILED)} == {
        fate: whole.data()[fate] for fate in (DROPPED, FAILED)
    }


@given(st.lists(st.tuples(VERDICT, st.tuples(COUNT, COUNT, COUNT)), max_size=20))
def test_many_rows_at_once_are_the_same_rows(rows):
    one, many = Decisions(), Decisions()
    verdicts = sorted({verdict for verdict, _ in rows}, key=str)
    for (fate, reason), counts in rows:
        one.add(fate, reason, **dict(zip(UNITS, counts, strict=True)))
    columns = np.array([counts for _, counts in rows], np.int64).reshape(-1, 3).T
    which = np.array([verdicts.index(verdict) for verdict, _ in rows], int)
    many.add_many(verdicts, which, **dict(zip(UNITS, columns, strict=True)))
    assert [b.to_pylist() for b in one.batches()] == [b.to_pylist() for b in many.batches()]


def test_no_file_is_written_where_rows_and_counts_do_not_agree(tmp_path):
    ledger = Ledger("stage")
    ledger.enter(documents=1)
    with pytest.raises(LedgerError, match="1 documents came in but 0 are accounted for"):
        ledger.write(tmp_path / "l.json", tmp_path / "d.arrow")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError, match="document is not a column"):
        ledger.keep(document=1)


def test_rows_without_what_they_need_are_refused(tmp_path):
    ledger = Ledger("stage")
    ledger.enter(documents=1)
    ledger.keep(documents=1)
    (batch,) = ledger.decisions.batches()
    nothing = batch.set_column(2, DECISION_SCHEMA.field(2), batch.column("place"))
    write_batches(tmp_path / "d.arrow", DECISION_SCHEMA, [nothing])
    with pytest.raises(StageError, match=r"d\.arrow: a row without documents"):
        list(read_decisions(tmp_path / "d.arrow", DECISION_SCHEMA))
