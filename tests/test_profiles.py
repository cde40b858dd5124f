"""The profiles for clusters plan the whole workflow with their resources; a stand-in for kubectl runs it."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from snakemake.profiles import ProfileConfigFileParser

PLUGINS = {
    "slurm": "snakemake_executor_plugin_slurm",
    "kubernetes": "snakemake_executor_plugin_cluster_generic",
}
# Runs the job at once, as a cluster would in time, and keeps what it was asked for.
KUBECTL = """#!{python}
import pathlib, subprocess, sys, yaml
folder = pathlib.Path({folder!r})
if sys.argv[1] == "create":
    name = f"neutral-residues-{{len(list(folder.glob('*.yaml')))}}"
    text = sys.stdin.read()
    (folder / f"{{name}}.yaml").write_text(text)
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    done = subprocess.run(container["command"], cwd=container["workingDir"], capture_output=True)
    (folder / name).write_text("Failed" if done.returncode else "SuccessCriteriaMet Complete")
    print("job.batch/" + name)
elif sys.argv[1] == "get":
    print((folder / sys.argv[3]).read_text())
"""


def snakemake(python: str, profile: str, *arguments: str, fails: bool = False, **environment: str) -> str:
    if importlib.util.find_spec(PLUGINS[profile]) is None:
        pytest.skip(f"{PLUGINS[profile]} is not installed: pip install -e '.[{profile}]'")
    command = [python, "-m", "snakemake", "--nolock", "--workflow-profile", f"configs/profiles/{profile}"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.fixture
def config(tmp_path) -> Path:
    """25 empty WARCs, all in one job."""
    for i in range(25):
        (tmp_path / f"{i:02d}.warc.gz").touch()
    data = yaml.safe_load((ROOT / "configs/test.yaml").read_text())
    data |= {
        "output": f"{tmp_path}/out",
        "engine": {"workers": 5},
        "crawl": {"warcs": [f"{tmp_path}/*.warc.gz"], "warcs_per_job": 25},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("profile", list(PLUGINS))
def test_the_whole_workflow_is_planned_with_the_resources_of_every_rule(profile, config, snakemake_python):
    """Snakemake evaluates them all in a dry-run, and would stop at one that is wrong."""
    plan = snakemake(snakemake_python, profile, "-n", "--quiet", "rules", "--configfile", str(config), "--", "all")
    rules = dict(re.findall(r"^(\w+) +(\d+)$", plan, re.M))
    profiled = yaml.safe_load((ROOT / f"configs/profiles/{profile}/config.yaml").read_text())["set-resources"]
    assert set(profiled) <= {*rules, "settle"}  # which is for a backbone from elsewhere
    assert (rules["extract"], rules["extend_run"]) == ("1", "4")


def test_a_kubernetes_job_asks_for_its_resources_and_runs(config, tmp_path, snakemake_python):
    folder = tmp_path / "cluster"
    folder.mkdir()
    kubectl = folder / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    index = f"{tmp_path}/out/filtered/sets.npy"
    quick = ("--seconds-between-status-checks", "1", "--configfile", str(config), "--", index)
    snakemake(snakemake_python, "kubernetes", *quick, PATH=path, VOLUME="claim", MOUNT="/mnt")
    assert Path(index).is_file()
    (job,) = [yaml.safe_load(p.read_text())["spec"]["template"]["spec"] for p in folder.glob("*.yaml")]
    assert job["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "2000Mi", "nvidia.com/gpu": "0"}
    assert job["volumes"][0]["persistentVolumeClaim"] == {"claimName": "claim"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "my.yaml: No such file or directory; give a YAML file, and name targets before --configfile"),
        (b"", "my.yaml: no keys and values in it"),
        (b"- a", "my.yaml: no keys and values in it"),
        (
            b"x: &x {__use_yte__: true}\n<<: *x",
            "my.yaml: for __use_yte__ Snakemake would run Python that is in it",
        ),
        (b"a: [", "my.yaml: not valid YAML: while parsing a flow node"),
        (b"a: 2026-13-01", "my.yaml: not valid YAML: month must be in 1..12"),
        (b"\x80", "my.yaml: not valid YAML: 'utf-8' codec"),
    ],
    ids=lambda value: repr(value)[:9],
)
def test_a_config_file_that_is_none_is_said_in_one_line(content, problem, tmp_path, monkeypatch):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    for words in (["--configfile", str(ROOT / "configs/schema.json"), str(path)], [f"--configfile={path}", "-n"]):
        monkeypatch.setattr(sys, "argv", ["snakemake", *words])
        with pytest.raises(SystemExit, match=f"^--configfile .*{re.escape(problem)}[^\n]*$"):
            read_profile()
    monkeypatch.setattr(sys, "argv", ["snakemake", "all", "--configfile", str(ROOT / "configs/demo.yaml"), "-n"])
    assert read_profile()["rerun-incomplete"] == "True"


def read_profile() -> dict[str, Any]:
    with (ROOT / "configs/profiles/default/config.yaml").open() as file:
        return ProfileConfigFileParser().parse(file)


def test_an_old_snakemake_is_told_which_is_needed_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr("snakemake.common.__version__", "8.30.0")
    with pytest.raises(
        SystemExit, match=r"^Expecting Snakemake version [\d.]+ .*8\.30\.0.* Run `pip install -e \.`"
    ):
        read_profile()


@pytest.mark.parametrize("where", ["output", "--config"])
def test_what_the_script_of_a_job_would_run_is_refused(config, tmp_path, where, snakemake_python):
    data = yaml.safe_load(config.read_text())
    command = f"it's $(touch {tmp_path}/PWNED)"
    words = ["--config", f"report={{title: {command}}}"] if where == "--config" else []
    data["output"] = f"{tmp_path}/out" if words else f"{tmp_path}/{command}"
    config.write_text(yaml.safe_dump(data))
    output = snakemake(
        snakemake_python, "kubernetes", *words, "--configfile", str(config), "--", "corpus", fails=True
    )
    assert "invisible characters on a cluster, whose scripts would run them; rename it" in output
    assert not (tmp_path / "PWNED").exists()
