"""The words of the command line are read as the file is, and jobs find the code from any folder."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.cli import parse_config
from snakemake.utils import update_config

from pipeline.common.config import ConfigError
from pipeline.workflow.start import job_environment, read_configs

KEYS = st.sampled_from(["aa", "bb", "cc"])
VALUES = (
    st.none() | st.booleans() | st.integers(-99, 99) | st.sampled_from(["", "1", "true", "é: {x}", "it's", "-"])
)
# No empty mapping, which Snakemake does not put in the place of null.
TREES = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
)
CONFIGS = st.dictionaries(KEYS, TREES, max_size=3)


@settings(max_examples=25)
@given(st.lists(CONFIGS, max_size=3), CONFIGS)
def test_files_and_words_are_merged_as_snakemake_does_with_the_types_of_yaml(tmp_path_factory, files, words):
    folder, merged = tmp_path_factory.mktemp("configs"), {}
    for number, data in enumerate(files):
        ending = "json" if number % 2 else "yaml"
        (folder / f"{number}.{ending}").write_text(json.dumps(data) if number % 2 else yaml.safe_dump(data))
    for data in (*files, words):
        update_config(merged, copy.deepcopy(data))
    given_words = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, width=9**9)}" for key, value in words.items()
    ]
    assert read_configs(map(str, sorted(folder.iterdir())), given_words) == merged


def test_what_stands_on_the_command_line_has_types_and_changes_only_its_keys(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "extend: {new: fr, runs: {a: {steps: 1, threads: 2}}}\ntokens: {row_tokens: 9}\n"
    )
    words = ["extend={runs: {a: {steps: 5}, b: {alpha: 1e-3}}}", "row=64", "flag=true", "none=", "text='64'"]
    assert read_configs([str(tmp_path / "a.yaml")], words) == {
        "extend": {"new": "fr", "runs": {"a": {"steps": 5, "threads": 2}, "b": {"alpha": "1e-3"}}},
        "tokens": {"row_tokens": 9},
        "row": 64,
        "flag": True,
        "none": None,
        "text": "64",
    }
    assert parse_config(words[:1])["extend"]["runs"]["a"]["steps"] == "5"  # why this does not take Snakemake's


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("tokens={row_tokens: 64", "--config tokens: not valid YAML: "),
        ("tokens={row_tokens: 64, row_tokens: 65}", "--config tokens: line 1: 'row_tokens' stands twice"),
        ("report={title: It's: here}", "--config report: not valid YAML: "),
    ],
)
def test_a_word_that_is_no_yaml_is_named(word, problem):
    with pytest.raises(ConfigError, match=problem):
        read_configs([], [word])
    with pytest.raises(ConfigError, match=r"'\{x\}.yaml': no braces"):
        read_configs(["{x}.yaml"], [])


def test_jobs_run_this_code_with_this_python_beside_whatever_modules(tmp_path):
    checkout, folder = tmp_path / 'it\'s "$(here)" é', tmp_path / "folder"
    checkout.symlink_to(ROOT)
    folder.mkdir()
    (folder / "pipeline.py").write_text("raise SystemExit('another pipeline')")
    environment = job_environment(str(checkout), {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/elsewhere"})
    code = "import pipeline, sys; print(pipeline.__file__, sys.prefix, sys.path.index('/elsewhere'))"
    done = subprocess.run(
        ["python", "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{checkout}/pipeline/__init__.py {sys.prefix} 1\n"
    assert job_environment(str(checkout), environment) == environment
    with pytest.raises(ConfigError, match="no ':' in the path of the code"):
        job_environment("/a:b", {})
