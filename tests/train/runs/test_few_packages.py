"""The model side on a machine that has torch and its like alone, as GPU machines do: from texts to an export."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from device import DEVICE
from helpers import LENGTH

from pipeline.common.files import write_arrow
from train.data.texts import SCHEMA

# What the stages are promised to need, and what these need themselves.
THERE = {"torch", "transformers", "safetensors", "tokenizers", "peft", "numpy", "pyarrow"}
THERE |= {"accelerate", "fsspec", "jinja2", "pyyaml", "regex", "tqdm", "urllib3"}
# Whoever looks for one of them finds none.
BLOCKING = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {modules!r} else find(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
"""
STAGES = """
import json, sys
from pipeline.common.cli import main
from train.__main__ import STAGES
for words in json.loads(sys.argv[1]):
    assert main("train", "", STAGES, words) == 0, words[0]
"""
TRAINING = "--learning-rate 1e-2 --steps 4 --batch-rows 4 --micro-batch-rows 4 --evaluate-rows 4 --threads 1"
TASK = """
prompt: "{{ question }}"
metric: char
fields: {question: question, choices: choices, answer: answer}
languages: {fra_Latn: {labels: {answer: Answer}, sources: [{path: questions.jsonl}]}}
"""


def blocked() -> list[str]:
    """The modules of all packages that pyproject.toml names, but for those of THERE."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {re.split(r"[^\w.-]", one)[0].lower() for one in wanted} - THERE
    owners = packages_distributions()
    modules = [module for module, owned in owners.items() if {name.lower() for name in owned} <= names]
    examples = {"warcio", "fasttext", "tensorboardX", "langcodes", "snakemake", "xxhash", "hypothesis"}
    assert not any(find_spec(name) for name in examples.difference(modules))
    return sorted(modules)


@pytest.mark.slow
def test_the_model_side_needs_torch_and_its_like_alone(tmp_path: Path) -> None:
    (tmp_path / "blocking").mkdir()
    (tmp_path / "blocking" / "sitecustomize.py").write_text(BLOCKING.format(modules=blocked()))
    for name in ("en", "fr"):
        words = [" ".join(f"{name}{7 * n + i * i}" for i in range(30)) for n in range(9)]
        texts = ({"text": text, "url": f"https://site.example/{n}"} for n, text in enumerate(words))
        write_arrow(tmp_path / f"{name}.arrow", SCHEMA, texts)
    (tmp_path / "question.yaml").write_text(TASK)
    questions = [{"question": f"un {n}", "choices": ["le", "chat"], "answer": n % 2} for n in range(4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    on = f"--device {DEVICE}"
    held = "--validation en=en.rows fr=fr.rows"
    stages = [
        "tokenizer --shards en.arrow fr.arrow --output tokenizer --vocabulary 300",
        *(f"tokenize --shards {name}.arrow --tokenizer tokenizer --split train --row-tokens {LENGTH} "
          f"--output {name}.rows --ledger {name}.json --language {name}" for name in ("en", "fr")),
        f"pretrain {TRAINING} {on} --hidden-size 16 --layers 2 --heads 2 --ffn-size 24 --rows en.rows {held} "
        "--tokenizer tokenizer --output backbone",
        *(f"extend --method {method} {TRAINING} {on} --fraction 0.5 --backbone backbone --old-rows en.rows "
          f"--new-rows fr.rows {held} --output {method}" for method in ("neutral", "lora")),
        *(f"evaluate --backbone backbone {run} {on} --rows fr=fr.rows --prompts le --generated-tokens 3 "
          f"--output {name}.json --speed s.json" for run, name in (("", "before"), ("--run neutral", "after"))),
        f"tasks --backbone backbone --run neutral {on} --tasks question.yaml --output tasks.json",
        "save --run neutral --output small",
        "export --run neutral --evaluations before.json after.json --output whole",
        "export --run lora --output plain",
        f"generate {on} --model neutral small plain --prompt le --tokens 3 --backbone backbone",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'blocking'}:{ROOT}"}
    command = [sys.executable, "-c", STAGES, json.dumps([stage.split() for stage in stages])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("tensorboardX is not installed") == 1
    assert (tmp_path / "neutral" / "metrics.jsonl").exists() and not list(tmp_path.rglob("events.out.*"))
    assert json.loads((tmp_path / "tasks.json").read_text())
    assert "[plain]" in done.stdout
