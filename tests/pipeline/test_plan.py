"""A prediction is that of the measured rates, and says what it cannot know."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import yaml
from snakemake.common.configfile import load_configfile

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.crawl.manifest import manifest
from pipeline.crawl.options import Crawl
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract
from pipeline.plan import (
    START_SECONDS,
    Measured,
    bytes_read,
    calibration,
    compare_with_real,
    measured_stages,
    plan,
    predict,
    run_calibration,
    training_cost,
)
from pipeline.workflow.freed import clean

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def tsv(folder: Path, name: str, seconds: float, cpu: str = "-", memory: str = "100.5") -> None:
    path = folder / f"benchmarks/{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00\t{memory}\t-\t-\t-\t-\t-\t-\t{cpu}\n")


@pytest.fixture
def run(tmp_path, make_warc, language_id) -> Path:
    """Two batches of one WARC each, of which only the extraction is real."""
    folder = tmp_path / "run"
    for i in range(2):
        warc = make_warc(f"{i}.warc.gz", count=4 + i, first=9 * i)
        extract(Extract(languages=["fr"], min_chars=1), [str(warc)], language_id, f"{folder}/pages/0000{i}.json",
                f"{folder}/pages/0000{i}.ledger.json", 1, None)  # fmt: skip
        tsv(folder, f"extract/0000{i}", 11.0, cpu="21.0")
    tsv(folder, "dedup_reduce", 3.0, memory="-")
    (folder / "duplicates").mkdir()
    (folder / "duplicates/00000.arrow").write_bytes(bytes(1000))
    return folder


def test_a_run_tells_the_bytes_of_its_archives_and_what_each_stage_took_and_wrote(run, tmp_path):
    assert bytes_read(str(run)) == sum(path.stat().st_size for path in tmp_path.glob("*.warc.gz"))
    stages = measured_stages(str(run))
    written = sum(path.stat().st_size for path in (run / "pages").rglob("*") if path.is_file())
    assert stages == {"extract": Measured(2, 42.0, 100.5, written), "dedup_reduce": Measured(1, 3.0, 0.0, 1000)}


def test_what_was_freed_of_a_run_is_measured_as_if_it_were_there(run):
    before = measured_stages(str(run)), bytes_read(str(run))
    (run / "corpus").mkdir()
    (run / "corpus/stats.json").touch()
    clean(str(run), [])
    assert not list(run.rglob("*.arrow"))
    assert (measured_stages(str(run)), bytes_read(str(run))) == before


def test_work_grows_with_the_archives_and_each_job_starts_once():
    stages = {
        "extract": Measured(jobs=2, seconds=42.0, memory=1.0, written=100),
        "dedup_apply": Measured(jobs=2, seconds=1.0, memory=1.0, written=10**9),
        "quality_train": Measured(jobs=1, seconds=101.0, memory=1.0, written=7, examples=200),
    }
    rows = {row["stage"]: row for row in predict(stages, 10.0, [5, 5, 5], workers=2, cores=4, max_examples=400)}
    assert rows["extract"]["core_seconds"] == pytest.approx(10 * 40 + 3 * START_SECONDS)
    # Two jobs of two workers each at a time: the third waits.
    assert rows["extract"]["wall_seconds"] == pytest.approx(2 * 403 / 3 / 2)
    assert (rows["extract"]["bytes"], rows["extract"]["jobs"]) == (1000, 3)
    assert rows["dedup_apply"]["core_seconds"] == pytest.approx(3 * START_SECONDS)  # it was all start
    # 800 examples at most, of which 200 were measured; and ten times the documents read twice.
    assert rows["quality_train"]["core_seconds"] == pytest.approx(START_SECONDS + 2 * 10**10 / 100e6 + 100 * 4)
    assert rows["quality_train"]["bytes"] == 7


@pytest.mark.slow
def test_a_plan_prints_its_assumptions_and_what_was_not_measured_and_compares(run, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    warcs = [f"{tmp_path}/*.warc.gz"]
    config.write_text(yaml.safe_dump({"output": f"{tmp_path}/out", "crawl": {"warcs": warcs, "warcs_per_job": 1}}))
    plan(str(config), str(run), 2, 10**9, 1, "")
    text = capsys.readouterr().out
    assert "- NOT in the plan, since that run had no such stage: card, dedup_apply, dedup_hash, shards" in text
    assert "extend: missing; give keys and values: the runs" in text  # this config has no training to predict
    found = json.loads((tmp_path / "out/plan.json").read_text())
    assert found["bytes"] == bytes_read(str(run))
    # The same archives in the same jobs: what was measured is what is predicted.
    for row in compare_with_real(found, str(run)):
        assert row["predicted_seconds"] == pytest.approx(row["real_seconds"])
        assert row["predicted_bytes"] == row["real_bytes"]
    assert {row["real_seconds"] for row in compare_with_real(found, str(tmp_path))} == {None}


def test_what_is_wrong_with_a_config_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"backbone": {}, "extend": {}, "crawl": {"warcs": ["no/*.gz"]}}))
    wrong = f"{config}: crawl.warcs: no file matches\n{config}: extend.runs: no run"

    def cost(problem):
        done = subprocess.CompletedProcess([], 1, "| training |\n", f"12:00:00 Retrying\ntrain cost: {problem}\n")
        monkeypatch.setattr("pipeline.plan.subprocess.run", lambda *_, **__: done)

    cost(wrong)
    with pytest.raises(ConfigError) as caught:
        plan(str(config), None, 2, 10**9, 1, "")
    assert str(caught.value) == wrong
    cost("the hub cannot be reached")  # which the corpus does not need
    with pytest.raises(ConfigError, match=r"config.yaml: crawl.warcs: no file matches no/\*.gz"):
        plan(str(config), None, 2, 10**9, 1, "")
    assert training_cost({}, str(config)) == "NOT in the plan: the hub cannot be reached"


def test_a_calibration_takes_warcs_from_all_of_the_crawl_one_a_job(tmp_path):
    paths = [tmp_path / f"{i:02d}.warc.gz" for i in range(10)]
    entries = [list(map(str, paths[:4])), list(map(str, paths[4:]))]
    with pytest.raises(StageError, match="none of the WARCs is here yet"):
        calibration({}, entries, 2, "out")
    for path in paths:
        path.touch()
    data = calibration({"crawl": {"warcs": ["*"]}, "near": {"enabled": True}}, entries, 3, "out")
    assert data["crawl"]["warcs"] == [str(paths[i]) for i in (0, 3, 6)]
    assert (data["output"], data["near"], data["crawl"]["warcs_per_job"]) == ("out", {"enabled": True}, 1)
    assert read(Crawl, data["crawl"]).warcs_per_job == 1
    for name in ("[0].warc.gz", "0.warc.gz"):
        (tmp_path / name).touch()
    data = calibration({}, [[f"{tmp_path}/[0].warc.gz"]], 1, "out")
    assert manifest(data["crawl"]["warcs"]) == ([[f"{tmp_path}/[0].warc.gz"]], [])


def test_a_calibration_runs_no_python_that_a_config_has(tmp_path, monkeypatch):
    (tmp_path / "a.warc.gz").touch()
    calls = []

    def snakemake(command, **_):
        calls.extend([command, load_configfile("--out/config.json")])
        return mock.Mock(returncode=0)

    monkeypatch.setattr(subprocess, "run", snakemake)
    data = {"__use_yte__": True, "sample": {"?__import__('pathlib').Path('PWNED').touch()": 1}}
    monkeypatch.chdir(tmp_path)
    run_calibration(data, [["a.warc.gz"]], 1, 1, "--out")
    assert "--configfile=--out/config.json" in calls[0]
    assert calls[1]["sample"] == data["sample"]
    assert not Path("PWNED").exists()
    assert not Path("--out/config.json").exists()  # a signed URL in it would stay with the results


def test_a_folder_that_no_run_has_filled_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"no benchmarks/extract/\*.tsv"):
        measured_stages(str(tmp_path))
    with pytest.raises(StageError, match=r"no pages/\*.json"):
        bytes_read(str(tmp_path))


@pytest.mark.slow
def test_files_elsewhere_are_planned_by_their_usual_size_and_what_cannot_be_is_said(run, tmp_path, capsys):
    index = {"crawl": "CC-MAIN-2026-30", "languages": ["fra"]}
    urls = [f"https://a.example/{i}.warc.gz" for i in range(6)]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"output": str(tmp_path / "out"), "crawl": {"warcs": urls, "index": index}}))
    plan(str(config), str(run), 2, 10**9, 4, "")
    text = capsys.readouterr().out
    assert "6 WARCs, 6 GB to transfer or read" in text
    assert "NOT in the plan: crawl.index" in text
    assert "NOT in the plan: the time that transfers take" in text
    config.write_text(yaml.safe_dump({"crawl": {"index": index}}))
    with pytest.raises(StageError, match="nothing else"):
        plan(str(config), str(run), 2, 10**9, 4, "")
    assert calibration({}, [urls], 2, "out")["crawl"]["warcs"] == [urls[0], urls[3]]
