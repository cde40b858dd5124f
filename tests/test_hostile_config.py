"""Every text, path and name that a config can have: each reaches the stages as it is, or is refused by its key.

They are found in the schema, so that a new option is tried too.
"""

from __future__ import annotations

import copy
import dataclasses
import glob
import itertools
import json
import os
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from pipeline.common.config import ConfigError, default_of, read
from train.config import Config

PATH = '-it\'s "$(touch PWNED)" `touch PWNED`; touch PWNED & | é #~ \\ %'
TEXT = f"{PATH} {{run}} {{{{2}}}} <logs> *?[a]\n\t!x"  # a regular expression too
RUN = {"learning_rate": 1e-3}
# What sections must have, into which a text is put.
NEEDED = {
    "crawl": "CC-MAIN-2026-30",
    "languages": ["fra"],
    "learning_rate": 1e-3,
    "language": "fr",
    "files": [str(ROOT / "docs/benchmarks/gpu.jsonl")],
}
# What asks a server or a model when jobs are planned.
ASKING = ("crawl.index", "crawl.commoncrawl", "extract.language_model")
# Instead of a source, and with the options of all trainings.
PRETRAIN = "backbone.pretrain"
# What no job of this config needs: it fetches nothing, asks no tasks, has a tokenizer, and makes no table.
UNUSED = ("crawl.cache", "evaluate.tasks_languages.0", "tokens.domain", "paper.runs")
PLAN = """
import json, pathlib, sys
from snakemake.api import SnakemakeApi
from snakemake.settings.types import *

with SnakemakeApi(OutputSettings(dryrun=True)) as api:
    config = ConfigSettings(configfiles=[pathlib.Path("config.yaml")])
    flow = api.workflow(ResourceSettings(cores=1), config_settings=config, snakefile=pathlib.Path(sys.argv[1]))
    dag = flow.dag(DAGSettings(targets={"all"}))
    dag.execute_workflow(executor="dryrun", execution_settings=ExecutionSettings(lock=False))
    jobs = [job for job in flow._workflow_store.dag.jobs if job.shellcmd]
    print(json.dumps([([*map(str, [*job.output, *job.log])], job.shellcmd) for job in jobs]))
"""
# Keeps the words of a job, each ended by a zero byte, with those of its lists.
PYTHON = r"""
set -e
exec 9> words
python() {
    for word; do
        case $word in
        @/dev/fd/*) cat "${word#@}" ;;
        *) printf '%s\0' "$word" ;;
        esac
    done >&9
    printf '\0' >&9
}
"""
Keys = tuple[tuple[Any, Any], ...]


def strings(kind: Any, keys: Keys = ()) -> Iterator[Keys]:
    """The keys to every text below a type: an option, 0 in a list, a language in a mapping; None: a key itself.

    With each the type of what holds it.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield from strings(hints[field.name], (*keys, (kind, field.name)))
    elif origin in (types.UnionType, typing.Union):
        for member in arguments:
            yield from strings(member, keys)
    elif origin is list:
        yield from strings(arguments[0], (*keys, (list, 0)))
    elif origin is dict:
        yield (*keys, (dict, None))
        # A language has a model, or examples of good text.
        yield from strings(arguments[1], (*keys, (dict, "en" if keys[-1][1] == "models" else "fr")))
    elif kind is str:
        yield keys


PLACES = {".".join(str(key) for _, key in keys): keys for keys in strings(Config)}
NUMBERS = {place: f"{number:02d}" for number, place in enumerate(PLACES)}


def config_for(place: str = "") -> dict[str, Any]:
    config = yaml.safe_load(Path(ROOT, "configs/test.yaml").read_text())
    config["filter"]["decontaminate"]["sets"] = {"quiz": str(ROOT / "tests/quiz.txt")}
    config["paper"] = {"runs": {"lora": RUN}}
    config["quality"]["models"] = {"en": str(ROOT / "tests/quiz.txt")}
    if not place.startswith(PRETRAIN):
        config["backbone"] = {"source": "some/model", "settle": dict(RUN)}
    return config


def put(config: dict[str, Any], place: str, text: str) -> None:
    """Put a text at its place, with the sections that are missing."""
    here: Any = config
    keys = PLACES[place]
    for (_, key), (kind, _) in itertools.pairwise(keys):
        needed = []
        if dataclasses.is_dataclass(kind):
            needed = [f.name for f in dataclasses.fields(kind) if default_of(f) is dataclasses.MISSING]
        made: Any = (
            [] if kind is list else {name: copy.deepcopy(NEEDED[name]) for name in needed if name in NEEDED}
        )
        if isinstance(here, list):
            here[:] = here or [made]
        else:
            here[key] = here.get(key) or made
        here = here[key]
    if isinstance(here, list):
        here.append(text)
    elif keys[-1][1] is None:
        here[text] = next(iter(here.values()))
    else:
        here[keys[-1][1]] = text


def candidates(place: str, hostile: bool) -> Iterator[str]:
    """A text, a path and a name to put at a place, that stand nowhere else; the path is one of a file."""
    number = NUMBERS[place]
    yield f"{TEXT}{number}" if hostile else f"text{number}"
    path = f"{PATH}{number}.jsonl" if hostile else f"path{number}.jsonl"
    if place == "domains.fr.corpus":
        Path(path, "fr").mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation"):
            Path(path, "fr", f"{split}-00000.arrow").touch()
    elif place != "output":
        Path(path).touch()
    yield glob.escape(path) if place in ("crawl.warcs.0", "crawl.texts.0.files.0") else path
    yield f"größe_1.5-{number}" if hostile else f"name{number}"


def taken(place: str) -> int | None:
    """Which hostile candidate a config can have at a place; each that it cannot have is refused by its key."""
    for number, text in enumerate(candidates(place, hostile=True)):
        config = config_for(place)
        put(config, place, text)
        try:
            read(Config, config)
        except ConfigError as error:
            found = str(error).replace(text, "").replace(repr(text), "")
            key = re.sub(r"\.(0|None)(?=\.|$)", "", place)
            wrong = [
                x for x in found.splitlines() if re.match(f"config: {re.escape(key)}[.:]", re.sub(r"\[\d]", "", x))
            ]
            assert wrong and all(";" in line for line in wrong), f"{place}: {found}"
        else:
            return number
    return None


@pytest.mark.parametrize("place", PLACES)
def test_a_text_of_a_config_is_taken_or_refused_by_its_key(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken(place)


def unescaped(pattern: str) -> str:
    """The path that a pattern made by glob.escape matches."""
    return re.sub(r"\[([*?[])]", r"\1", pattern)


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def words_of_jobs(folder: Path, places: dict[str, str]) -> list[tuple[str, ...]]:
    """The words that bash gives to each job's `python`, where these texts stand at their places."""
    config = config_for()
    for place, text in places.items():
        put(config, place, text)
    config["evaluate"]["others"] = list(config["domains"])
    Path(folder, "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    planned = subprocess.run([sys.executable, "-c", PLAN, ROOT / "Snakefile"], cwd=folder, env=environment,
                             capture_output=True, text=True, check=False)  # fmt: skip
    assert planned.returncode == 0, planned.stderr[-3000:]
    jobs = json.loads(planned.stdout.splitlines()[-1])
    files = [folder / name for names, _ in jobs for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    script = "\n".join([PYTHON, *(command for _, command in jobs)])
    subprocess.run(["bash", "-c", script], cwd=folder, check=True)
    assert all(file.is_file() for file in files if "logs" in file.parts)
    words = Path(folder, "words").read_bytes().decode().removesuffix("\0\0").split("\0\0")
    return [tuple(job.split("\0")) for job in words]


@pytest.mark.slow
def test_each_text_reaches_the_stages_as_it_is(tmp_path, monkeypatch):
    """The jobs of one config with all of them have the words of a plain one, but for the texts themselves."""
    found = []
    for hostile in (True, False):
        folder = tmp_path / ("hostile" if hostile else "plain")
        folder.mkdir()
        monkeypatch.chdir(folder)
        if hostile:
            places = [x for x in PLACES if not x.startswith((*ASKING, PRETRAIN))]
            numbers = {place: number for place in places if (number := taken(place)) is not None}
        texts = {place: list(candidates(place, hostile))[number] for place, number in numbers.items()}
        found.append((texts, words_of_jobs(folder, texts)))
        assert not list(folder.rglob("PWNED*"))
    (texts, jobs), (plain, expected) = found

    def as_plain(word: str) -> str:
        for place, text in texts.items():
            for form in (str, unescaped, in_json):
                word = word.replace(form(text), form(plain[place]))
        return word

    assert sorted(tuple(map(as_plain, job)) for job in jobs) == sorted(expected)
    reached = "".join(word for job in expected for word in job)
    assert not [place for place, text in plain.items() if text not in reached and not place.startswith(UNUSED)]
