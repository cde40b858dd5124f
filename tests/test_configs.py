"""The configs that are shipped: valid, and planned by Snakemake to the report."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.common.config import read_yaml
from pipeline.common.yaml_file import load_yaml
from pipeline.crawl.catalogue import SOURCES
from pipeline.workflow.layout import shard_path
from pipeline.workflow.time_left import TIMES, config_mark
from train.config import Config

WHOLE = ("demo", "paper-like", "smollm2-de", "smollm2-fr", "smollm2-quick", "test")  # the others go on top of one


@pytest.mark.parametrize("name", WHOLE)
def test_a_shipped_config_is_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_yaml(Config, f"configs/{name}.yaml")
    assert config.output == f"results/{name}"
    assert set(config.sample.sources) <= set(SOURCES)


def test_times_that_were_measured_are_of_the_configs_as_they_are():
    """Else a run would promise the time of another config: `python -m benchmarks.times` writes them anew."""
    assert (TIMES / "demo.tsv").exists()
    for path in TIMES.glob("*.tsv"):
        config = ROOT / "configs" / path.with_suffix(".yaml").name
        first = path.read_text().splitlines()[0]
        assert first.endswith(config_mark(load_yaml(config))), f"{config} has changed: measure its times"


@pytest.mark.slow
def test_every_job_of_a_config_with_times_has_one(tmp_path, snakemake_python):
    """Else nothing would be said of the time left."""
    for path in TIMES.glob("*.tsv"):
        config = f"--configfile=configs/{path.stem}.yaml"
        command = [snakemake_python, "-m", "snakemake", "--nolock", "-n", "--quiet", "rules", config]
        plan = subprocess.run(
            [*command, "--config", f"output={tmp_path}", "--", "all"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        rules = dict(re.findall(r"^(\w+) +(\d+)$", plan.stdout + plan.stderr, re.M))
        assert plan.returncode == 0 and rules, plan.stderr[-3000:]
        jobs = Counter(line.split("\t")[0].split("/")[0] for line in path.read_text().splitlines()[1:])
        for rule in rules.keys() - {"all", "total", "dedup_reduced", "watched"}:  # which are local
            names = {rule, rule.removesuffix("_run"), rule.removesuffix("_model")}
            assert sum(jobs[name] for name in names) == int(rules[rule]), f"{path} and the rule {rule}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ["paper-like"],
        ["smollm2-quick", "smollm2-quick-more"],
        ["smollm2-de", "smollm2-quick-de"],
        ["smollm2-fr", "smollm2-cpu", "smollm2-more", "smollm2-fr-de"],
    ],
    ids=lambda names: names[-1],
)
def test_a_shipped_config_is_planned(names, tmp_path, snakemake_python):
    configs = []
    for name in names:
        text = Path(ROOT, f"configs/{name}.yaml").read_text()
        configs.append(tmp_path / f"{name}.yaml")
        configs[-1].write_text(re.sub("results/", f"{tmp_path}/", text))
    for output, language in (("smollm2-de", "de"), ("smollm2-quick-de", "de"), ("smollm2-quick-de", "en")):
        for split in ("train", "validation"):  # what the German configs make
            shard = shard_path(tmp_path / f"{output}/corpus", language, split, "00000")
            shard.parent.mkdir(parents=True, exist_ok=True)
            shard.touch()
    command = [snakemake_python, "-m", "snakemake", "--nolock", "-n", "--quiet", "rules"]
    done = subprocess.run(
        [*command, "--configfile", *map(str, configs), "--", "all"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rules = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M))
    runs = {"paper-like": 4, "smollm2-quick": 20, "smollm2-de": 4, "smollm2-fr": 12}[names[0]]
    assert (rules["extend_run"], rules["report"]) == (str(runs), "1")
    assert ("settle" in rules) == ("paper-like" not in names)
