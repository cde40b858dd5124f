"""Every command that the README and the guide show: its program, flags and files are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import snakemake.cli
import torch.distributed.run
from conftest import ROOT

from pipeline.__main__ import STAGES as PIPELINE
from pipeline.common.cli import make_parser
from train.__main__ import STAGES as TRAIN

PAGES = ("README.md", "docs/guide.md")
# What a reader runs that is not of this project, and what a reader writes.
ELSEWHERE = {"apt-get", "cd", "dask", "docker", "export", "hf", "llama-server", "lms", "mkdir",
             "mlx_lm.server", "ollama", "openssl", "podman", "apptainer", "tensorboard", "transformers", "umask",
             "vllm"}  # fmt: skip
OWN = re.compile(r"configs/(breton|french)\.yaml|mine\.yaml")
TARGETS = {
    name
    for path in (ROOT / "Snakefile", *ROOT.glob("*/**/*.smk"))
    for name in re.findall(r"^ *(?:rule|checkpoint) (\w+):", path.read_text(), re.MULTILINE)
}


def commands(page: str) -> Iterator[str]:
    """The lines of indented blocks, in the words of a shell, and the texts in `…` that begin with a program."""
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"))
    blocks = re.findall(r"(?:^(?: {4}| {6})\S.*\n(?:^ {8,}.*\n)*)", text, re.MULTILINE)
    programs = "|".join(map(re.escape, sorted({*CHECKS, *ELSEWHERE})))
    yield from (re.sub(r"\\\n\s*", "", block).strip() for block in blocks)
    yield from re.findall(rf"`((?:{programs}) [^`]*)`", re.sub(r"\s+", " ", text))


def check(words: list[str]) -> None:
    """Raises AssertionError or SystemExit where a command cannot run as it is written."""
    if "&&" in words:
        place = words.index("&&")
        check(words[:place])
        check(words[place + 1 :])
        return
    program, *arguments = words
    assert program in CHECKS or program in ELSEWHERE, f"{program}: add a check, or say that it is from elsewhere"
    assert "…" not in words, "a command is shown whole"
    CHECKS.get(program, lambda arguments: None)(arguments)


def check_pip(arguments: list[str]) -> None:
    extras = re.findall(r"^\.\[(.*)\]$", "\n".join(arguments), re.MULTILINE)
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert {name for extra in extras for name in extra.split(",")} <= known
    if "-c" in arguments:
        assert (ROOT / arguments[arguments.index("-c") + 1]).is_file()


def check_snakemake(arguments: list[str]) -> None:
    options = snakemake.cli.get_argument_parser().parse_args(arguments)
    for path in options.configfile or []:
        assert OWN.fullmatch(str(path)) or (ROOT / path).is_file(), path
    if options.workflow_profile:
        assert (ROOT / options.workflow_profile / "config.yaml").is_file()
    for target in options.targets:
        assert target in TARGETS or re.fullmatch(r"paper/(table[1-8]|figure[13]|budgets)", target), target


def check_python(arguments: list[str]) -> None:
    flag, module, *rest = arguments
    assert flag == "-m"
    wing = {"pipeline": PIPELINE, "train": TRAIN}.get(module)
    if wing is not None:
        assert set(rest[:1]) <= {stage.name for stage in wing}
        if len(rest) > 1 and "--help" not in rest:  # else it is only named
            make_parser(module, "", wing).parse_args(rest)
    elif module.startswith("benchmarks"):
        found = importlib.util.find_spec(module)
        assert found and found.origin
        sources = Path(found.origin).parent.glob("*.py") if found.submodule_search_locations else [found.origin]
        texts = "".join(Path(source).read_text() for source in sources)
        assert all(f'"{word}"' in texts for word in rest if word.startswith("--")), rest


def check_torchrun(arguments: list[str]) -> None:
    options = torch.distributed.run.get_args_parser().parse_args(arguments)
    assert options.module
    check_python(["-m", options.training_script, *options.training_script_args])


def check_unshare(arguments: list[str]) -> None:
    assert arguments[-3:-1] == ["sh", "-c"]
    check(shlex.split(arguments[-1].partition(" && ")[2]))


CHECKS = {
    "pip": check_pip,
    "pytest": lambda arguments: None,
    "python": check_python,
    "snakemake": check_snakemake,
    "torchrun": check_torchrun,
    "unshare": check_unshare,
}


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands(page)}))
def test_a_command_is_as_its_program_takes_it(command):
    check(shlex.split(command, comments=True))
