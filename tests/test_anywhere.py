"""The workflow in a folder of its own, with the code elsewhere: not installed, not writable, of any name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

ODD = 'it\'s "$(touch PWNED)" `touch PWNED`; é & * ~ \\'
pytestmark = pytest.mark.slow


def snakemake(python: str, snakefile: Path, *words: str, cwd: Path) -> str:
    """What Snakemake says, with no Python of this project on PATH or PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = "/usr/bin:/bin"
    done = subprocess.run(
        [python, "-m", "snakemake", "--nolock", f"--snakefile={snakefile}", "--cores=1", *words],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.fixture
def code(tmp_path) -> Path:
    """The code under an odd name, where nothing can be written but by root, for whom modes mean nothing."""
    folder = tmp_path / f"code {ODD}"
    folder.mkdir()
    for name in ("Snakefile", "pipeline", "train", "models", "configs"):
        (folder / name).symlink_to(ROOT / name)
    folder.chmod(0o555)
    return folder


def test_a_job_runs_the_code_beside_the_snakefile_in_whatever_folder(code, tmp_path, snakemake_python):
    work, target = tmp_path / f"work {ODD}", f"results {ODD}/filtered/sets.npy"
    (work / "tests").mkdir(parents=True)
    (work / "tests/quiz.txt").write_text((ROOT / "tests/quiz.txt").read_text())
    for name in ("pipeline", "train", "models"):  # which `python -m` would take, in the folder where it runs
        (work / f"{name}.py").write_text("raise SystemExit('not this one')")
    config = yaml.safe_load((ROOT / "configs/test.yaml").read_text()) | {"output": f"results {ODD}"}
    (tmp_path / f"-{ODD}.yaml").write_text(yaml.safe_dump(config))
    words = [f"--directory={work}", f"--configfile=-{ODD}.yaml", "--", target]
    snakemake(snakemake_python, code / "Snakefile", *words, cwd=tmp_path)
    assert (work / target).is_file()
    assert not list(tmp_path.rglob("PWNED*"))
    assert {path.name for path in code.iterdir()} == {"Snakefile", "pipeline", "train", "models", "configs"}


def test_without_a_config_the_demo_is_planned_in_whatever_folder(code, tmp_path, snakemake_python):
    words = ["--dry-run", "--quiet", "rules", "--", "all", "paper"]
    plan = snakemake(snakemake_python, code / "Snakefile", *words, cwd=tmp_path)
    assert "sample_crawl" in plan and "paper_table" in plan
    assert not (tmp_path / "results").exists()
