import json
import re
from dataclasses import replace

import pyarrow as pa
import pytest
from helpers import evaluation, language, pretraining_record, run_record, speed, task_score, write_rows

pytest.importorskip("altair")  # there with all that the report needs

from pipeline.common.errors import StageError
from train.__main__ import STAGES
from train.report.compare import difference
from train.runs.record import write_record
from train.runs.results import TaskScores, write_result


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def stamp(path, stage, **options):
    """An Arrow stream with what pipeline.common.files.stamp() writes into its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("text", pa.string())], {"pipeline": json.dumps({"stage": stage, "options": options})})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema):
        pass


def workflow(folder, rate=0.1, bpb=2.0, runs=("neutral",), **changes):
    """The output folder of a workflow, as far as it is compared."""
    ledger = {"stage": "extract", "kept": {"documents": 7}}
    write(folder / "corpus/stats.json",
          {"ledgers": [ledger], "languages": {"fr": {"train": {"documents": 7, "bytes": 70}}}})  # fmt: skip
    stamp(folder / "documents/00000.arrow", "dedup", min_chars=changes.get("min_chars", 200))
    write_rows(folder / "tokens/fr/validation.arrow", language(1, 3))
    write_record(folder / "backbone", pretraining_record(steps=5))
    write_result(folder / "evaluate/backbone.json", evaluation(run=None, fr=3.0))
    for run in runs:
        write_record(folder / f"runs/{run}", run_record("neutral", learning_rate=rate, new="fr|a"))
        lines = [{"step": 0, "evaluation": {"fr": {"bpb": 9.0}}}, {"loss": 4.0, "gate_old": 0.1, "gate_new": 0.9},
                 {"step": 5, "evaluation": {"fr": {"bpb": bpb + 0.5}}}]  # fmt: skip
        (folder / f"runs/{run}/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        write_result(folder / f"evaluate/{run}.json", evaluation(run, fr=bpb))
        write_result(folder / f"speed/{run}.json", speed(backbone=9.0, run=8.0))
        scores = TaskScores(model=run, tasks={"arc/fr": task_score(0.25, 0.1)}, skipped={})
        write_result(folder / f"tasks/{run}.json", scores)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks/card.tsv").write_text("s\tmax_rss\n2.5\t10\n")
    return folder


def cells(text):
    """The rows of all tables: name -> the other cells."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "|" in line]
    return {name: values for name, *values in rows}


def test_workflows_differ_in_what_was_changed_and_in_nothing_else(tmp_path):
    a = workflow(tmp_path / "a")
    b = workflow(tmp_path / "b", rate=0.2, bpb=1.5, min_chars=300)
    text = difference(str(a), str(b))
    options = cells(text.split("## corpus")[0])
    assert options["neutral.learning_rate"] == ["0.1", "0.2"]
    assert options["dedup.min_chars"] == ["200", "300"]
    assert set(options) - {"option"} == {"neutral.learning_rate", "dedup.min_chars"} | {
        name for name in options if name.startswith("-")
    }
    neutral = cells(text.split("## neutral")[1].split("## time")[0])
    assert neutral["fr, bits per byte"] == ["2", "1.5000", "-0.5000 (-25.0%)"]
    assert neutral["fr, bits per byte in training"] == ["2.5000", "2", "-0.5000 (-20.0%)"]
    assert neutral["fr, KL to backbone"] == ["0.5000", "0.5000", "0"]
    assert neutral["fr, mean gate"] == ["0.3000", "0.3000", "0"]
    assert neutral["writing, tokens/s"] == neutral["scoring new text, tokens/s"] == ["8", "8", "0"]
    assert neutral["arc/fr, accuracy (char)"] == ["0.2500", "0.2500", "0"]
    assert neutral["training, tokens/s"] == ["100", "100", "0"]
    assert neutral["gate on new tokens"][0] == "0.9000"
    assert cells(text.split("## time")[1])["card"] == ["2.5000", "2.5000", "0"]


def test_a_folder_does_not_differ_from_itself(tmp_path):
    a = str(workflow(tmp_path / "a"))
    text = difference(a, a)
    assert "None." in text
    assert all(
        values[2] in ("0", "B - A") or set(values[2]) <= set("-:")
        for values in cells(text).values()
        if len(values) > 2
    )


def test_what_one_side_lacks_stays_empty(tmp_path):
    text = difference(str(workflow(tmp_path / "a")), str(workflow(tmp_path / "b", runs=("neutral", "lora"))))
    assert cells(text.split("## lora")[1])["fr, bits per byte"] == ["", "2", ""]
    assert cells(text)["lora.learning_rate"] == ["", "0.1"]
    assert cells(text)["lora.new"] == ["", "fr\\|a"]


def test_two_runs_of_one_workflow(tmp_path):
    folder = workflow(tmp_path / "a", runs=("neutral", "lora"))
    write_result(folder / "evaluate/lora.json", replace(evaluation("lora", fr=2.5), change={}))
    text = difference(str(folder / "runs/neutral"), str(folder / "runs/lora"))
    assert cells(text)["fr, bits per byte"] == ["2", "2.5000", "+0.5000 (+25.0%)"]
    assert cells(text)["fr, KL to backbone"] == ["0.5000", "", ""]


def test_a_difference_of_the_same_documents_has_its_interval(tmp_path):
    folder = workflow(tmp_path / "a", runs=("neutral", "lora"))
    runs = [str(folder / "runs/neutral"), str(folder / "runs/lora")]
    for fr, documents, words in (
        (2.5, 30, r"\+0\.5000 \(\+25\.0%\), 95%: \+0\.49\d+ to \+0\.50\d+"),
        (2.0001, 30, r"\+1\.00e-04 \(\+0\.0%\), 95%: -0\.00\d+ to \+0\.00\d+, within the noise"),
        (2.5, 31, r"\+0\.5000 \(\+25\.0%\)"),
    ):
        for run, value, count in (("neutral", 2.0, 30), ("lora", fr, documents)):
            write_result(folder / f"evaluate/{run}.json", evaluation(run, documents=count, fr=value))
        assert re.fullmatch(words, cells(difference(*runs))["fr, bits per byte"][2])


def test_wrong_folders_are_refused_with_a_reason(tmp_path):
    a = workflow(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for one, other, words in (
        (a, tmp_path / "nowhere", "nowhere: is not there"),
        (a, tmp_path / "empty", "empty: has no run.json"),
        (a, a / "runs/neutral", "give two of a kind"),
    ):
        with pytest.raises(StageError, match=words):
            difference(str(one), str(other))
    (a / "evaluate/neutral.json").write_text('{"domains": ')
    with pytest.raises(StageError, match=r"evaluate/neutral\.json: damaged JSON"):
        difference(str(a), str(a))


def test_both_folders_are_given_by_their_place(tmp_path, capsys):
    from pipeline.common.cli import main

    a = workflow(tmp_path / "a")
    assert main("train", "", STAGES, ["compare", str(a), str(a / "runs/neutral")]) == 1
    assert "train compare: " in capsys.readouterr().err
    assert main("train", "", STAGES, ["compare", str(a), str(a)]) == 0
    assert "## neutral" in capsys.readouterr().out
