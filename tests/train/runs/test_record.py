"""What is written down of a run and of a model: read as it was written, refused where it is damaged."""

import json
from pathlib import Path

import pytest
from helpers import evaluation, run_record

from pipeline.common.errors import StageError
from train.runs.record import read_run, write_record
from train.runs.results import read_evaluation, write_result


def test_a_record_is_read_as_it_was_written_and_its_costs_come_last(tmp_path: Path) -> None:
    record = run_record("neutral", learning_rate=0.5)
    write_record(tmp_path, record)
    assert read_run(tmp_path) == record
    keys = list(json.loads((tmp_path / "run.json").read_text()))
    assert (keys[0], keys[9], keys[10], keys[-1]) == ("options", "alpha", "tokens", "versions")


def test_what_may_be_missing_is_left_out_and_what_may_be_null_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_result(path, evaluation(run=None, fr=2.0))
    assert read_evaluation(path) == evaluation(run=None, fr=2.0)
    data = json.loads(path.read_text())
    assert data["run"] is None
    assert "sites" not in data["change"]["fr"]


def test_a_wrong_file_is_refused_with_its_name_the_key_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not a finished run"):
        read_run(tmp_path)
    path = tmp_path / "run.json"
    write_record(tmp_path, run_record("neutral"))
    data = json.loads(path.read_text())
    del data["seconds"]
    path.write_text(json.dumps(data | {"ranks": "one"}))
    with pytest.raises(StageError) as error:
        read_run(tmp_path)
    text = str(error.value)
    assert f"{path}: seconds: missing; give a number: the time of the steps alone" in text
    assert f"{path}: ranks: expected a whole number, found 'one'" in text
    assert text.endswith("train the run again with `extend`")
    path.write_text("{")
    with pytest.raises(StageError, match=r"run\.json: damaged JSON .*; train the run again"):
        read_run(tmp_path)
    path.write_text("[" * 10**5)
    with pytest.raises(StageError, match=r"run\.json: damaged JSON .*; train the run again"):
        read_run(tmp_path)
    with pytest.raises(StageError, match=r"none\.json: No such file or directory; measure the model again"):
        read_evaluation(tmp_path / "none.json")
