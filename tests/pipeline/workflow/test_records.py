"""The records of Snakemake that are kept with the results; test_workflow.py tries them with Snakemake."""

import json
import os
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from pipeline.workflow.records import FILE, keep, restore

RECORD = {"input": ["out/pages/0.json"], "params": ["--url 'out/x'", "out2/y"], "shellcmd": "make > out/a.log"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_of(path: str) -> Path:
    return Path(".snakemake/metadata", urlsafe_b64encode(path.encode()).decode())


def make(path: str, content: str = "x", date: int = 1_000, record: dict | None = RECORD) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    os.utime(path, ns=(date, date))
    if record is not None:
        record_of(path).parent.mkdir(parents=True, exist_ok=True)
        record_of(path).write_text(json.dumps(record))


def test_records_come_back_in_another_checkout_and_under_another_name(folder):
    make("out/a.arrow")
    make("out2/b.arrow")
    for name in (".nfs000000012", "_w=="):
        Path(".snakemake/metadata", name).touch()
    keep("out")
    shutil.rmtree(".snakemake")
    Path("out").rename("renamed")
    restore("renamed")
    assert json.loads(record_of("renamed/a.arrow").read_text()) == {
        "input": ["renamed/pages/0.json"],
        "params": ["--url 'renamed/x'", "out2/y"],
        "shellcmd": "make > renamed/a.log",
    }
    assert not record_of("out2/b.arrow").exists()


def test_the_record_of_a_file_that_was_freed_comes_back_too(folder):
    make("out/a.arrow")
    keep("out")
    shutil.rmtree(".snakemake")
    Path("out/a.arrow").unlink()
    restore("out")
    assert json.loads(record_of("out/a.arrow").read_text()) == RECORD
    assert not Path("out/a.arrow").exists()


def test_an_unchanged_file_gets_its_date_back_and_a_changed_one_does_not(folder):
    make("out/same")
    make("out/other")
    keep("out")
    Path("out/other").write_text("y")
    os.utime("out/same", ns=(5_000, 5_000))
    restore("out")
    assert Path("out/same").stat().st_mtime_ns == 1_000
    assert Path("out/other").stat().st_mtime_ns > 1_000


def test_a_benchmark_file_gets_its_date_back_too(folder):
    make("out/benchmarks/tokenize/fr.tsv", record=None)
    make("out/a")
    keep("out")
    os.utime("out/benchmarks/tokenize/fr.tsv", ns=(5_000, 5_000))
    restore("out")
    assert Path("out/benchmarks/tokenize/fr.tsv").stat().st_mtime_ns == 1_000


def test_what_snakemake_knows_better_is_kept_and_not_replaced(folder):
    make("out/a")
    keep("out")
    make("out/a", "new", date=2_000, record=RECORD | {"params": ["new"]})
    keep("out")
    restore("out")
    assert json.loads(record_of("out/a").read_text())["params"] == ["new"]
    assert Path("out/a").stat().st_mtime_ns == 2_000
    assert len(Path("out", FILE).read_text().splitlines()) == 1


def test_folders_and_long_paths(folder):
    path = "out/" + "/".join("long-name" * 8 for _ in range(4))
    Path(path).mkdir(parents=True)
    Path(path, ".snakemake_timestamp").touch()
    Path(path, "weights").write_text("w")
    encoded = urlsafe_b64encode(path.encode()).decode()
    record = Path(".snakemake/metadata", "@" + encoded[:254], encoded[254:])
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(RECORD))
    date = Path(f"{path}/.snakemake_timestamp").stat().st_mtime_ns
    keep("out")
    shutil.rmtree(".snakemake")
    Path(path, ".snakemake_timestamp").touch()
    restore("out")
    assert record.exists()
    assert Path(f"{path}/.snakemake_timestamp").stat().st_mtime_ns == date


def test_the_signatures_of_urls_do_not_stay_with_the_results(folder):
    make("out/fetched/00000/fetched.json", record=None)
    record_of("out/fetched/00000").parent.mkdir(parents=True, exist_ok=True)
    record_of("out/fetched/00000").write_text(json.dumps({"params": ["['https://h/a.warc.gz?sig=SECRET']"]}))
    make("out/a")
    keep("out")
    assert "SECRET" not in Path("out", FILE).read_text()
    restore("out")
    assert "SECRET" in record_of("out/fetched/00000").read_text()


def test_results_of_which_nothing_is_known_are_named(folder, caplog):
    make("out/a", record=None)
    restore("out")
    assert "out: no record of how its files were made" in caplog.text
    restore("nothing")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"path": "a"}', '{"path": "../b", "date": 1, "checksum": ""}'])
def test_a_damaged_or_hostile_file_of_records_is_not_used(folder, caplog, line):
    make("b")
    make("out/a", record=None)
    Path("out", FILE).write_text(line + "\n")
    restore("out")
    assert "damaged" in caplog.text
    assert Path("b").stat().st_mtime_ns == 1_000
