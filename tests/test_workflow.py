"""The whole workflow on real pages: end to end, rerun, other cores, changes of config, and kills.

Each test is a copy of one reference run with something done to it; the corpus and the weights must come out
with the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from preloaded import SNAKEMAKE, STAGES, killed, preloaded

pytestmark = [pytest.mark.slow, pytest.mark.network]

# Every name and text of the run is also a command, or what else a shell or Snakemake would not leave as it is. But
# with braces in a path the config would be refused.
TEXT = 'it\'s "$(touch PWNED)" `touch PWNED`; touch PWNED & {run} {2} * ~ \\'
NAME = TEXT.translate(str.maketrans("", "", "{}"))
CONFIG, OUT, DOWNLOADS = f"configs/-{NAME}.yaml", f"-results {NAME}/@ {NAME}", f"downloads {NAME}"
# What the README and the guide show that runs on the results of this config.
RUN_HERE = ("compare", "export", "generate", "look", "publish", "rebuild", "save", "why")
PYTHON = ".python"  # starts Snakemake at once
# What must have the same bytes; logs, times and the report's times may differ.
SAME = ("pages/**/*", "documents/*", "hashes/*", "duplicates/*", "filtered/*", "near/*", "quality/*",
        "decisions/**/*", "corpus/**/*", "tokenizer/*.json", "tokens/**/*", "backbone/*.safetensors",
        "runs/*/*.safetensors", "evaluate/*.json")  # fmt: skip


def snakemake(folder: Path, *arguments: str, check: bool = True, **environment: str) -> str:
    command = [folder / PYTHON, "-m", "snakemake", "--nolock", f"--configfile={CONFIG}", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output[-5000:]
    return output


def run_all(folder: Path, python: str, *arguments: str, times: int = 1) -> None:
    """Run the workflow with the `python` of tests/preloaded.py, again as long as it fails, `times` at most."""
    environment = {"PATH": f"{python}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    for left in reversed(range(times)):
        if "WorkflowError" not in snakemake(folder, *arguments, check=not left, **environment):
            return


def digests(folder: Path) -> dict[str, str]:
    out = folder / OUT
    files = sorted({p for pattern in SAME for p in out.glob(pattern) if p.is_file()})
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Iterator[Path]:
    """A copy of the project with its downloads, in which the workflow has run once."""
    folder = tmp_path_factory.mktemp("workflow") / NAME
    ignore = shutil.ignore_patterns(".*", "results", "downloads", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=ignore, symlinks=True)
    (ROOT / "downloads").mkdir(exist_ok=True)
    (folder / DOWNLOADS).symlink_to(ROOT / "downloads")
    (folder / CONFIG).write_text(yaml.safe_dump(hostile(folder)))
    with preloaded(folder.parent / "snakemake", SNAKEMAKE, folder) as snakemakes:
        (folder / PYTHON).symlink_to(f"{snakemakes}/python")
        with preloaded(folder.parent / "stages", STAGES) as python:
            run_all(folder, python, "--cores", "2", "all")
        yield folder


def hostile(folder: Path) -> dict[str, Any]:
    """configs/test.yaml with TEXT and NAME wherever they are allowed."""
    config = yaml.safe_load((folder / "configs/test.yaml").read_text())
    quiz = shutil.move(folder / "tests/quiz.txt", folder / f"tests/{NAME}.txt")
    config["output"] = OUT
    config["sample"]["downloads"] = DOWNLOADS
    config["crawl"]["cache"] = f"{DOWNLOADS}/crawl"
    config["filter"]["decontaminate"]["sets"]["quiz"] = str(quiz.relative_to(folder))
    config["quality"]["positives"]["fr"]["urls"] += f"|{re.escape(TEXT)}"
    config["domains"]["en"]["urls"] = f".|{re.escape(TEXT)}"
    config["evaluate"]["prompts"].append("--output=PWNED '$(touch PWNED)\" {run}")
    config["report"] = {"title": f"--folder=PWNED\n{TEXT}"}
    return config


@pytest.fixture
def copy(checkout, tmp_path) -> Path:
    shutil.copytree(checkout, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_the_report_shows_every_part_and_escapes_the_crawl(checkout):
    page = (checkout / OUT / "report.html").read_text()
    for part in ("trade_off", "funnel", "languages", "quality_1", "pretraining", "gates", "durations",
                 "divergence", "agreement", "gate_layers", "forgetting_sites", "inference_speed"):  # fmt: skip
        assert f'id="{part}"' in page
    for run in ("finetune", "lora", "adapter", "neutral"):
        assert f"<td>{run}</td>" in page
    assert 'http-equiv="Content-Security-Policy"' in page
    assert (checkout / OUT / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_no_name_or_text_was_run_by_a_shell(checkout):
    assert not list(checkout.parent.rglob("PWNED*"))
    assert TEXT in html.unescape((checkout / OUT / "report.html").read_text())


def test_all_methods_learn_the_new_language(checkout):
    from pipeline.common.files import read_json

    bpb = {p.stem: read_json(p)["domains"]["fr"]["bpb"] for p in (checkout / OUT / "evaluate").glob("*.json")}
    assert set(bpb) == {"backbone", "finetune", "lora", "adapter", "neutral"}
    assert all(value < bpb["backbone"] - 0.05 for name, value in bpb.items() if name != "backbone"), bpb


def test_the_shards_load_with_datasets_pyarrow_and_polars(checkout, tmp_path):
    import datasets
    import polars
    import pyarrow as pa

    shard = checkout / OUT / "corpus/fr/train-00000.arrow"
    table = pa.ipc.open_stream(pa.OSFile(str(shard))).read_all()
    assert len(table) > 10
    assert table.schema.field("text").type == pa.string()
    assert b"pipeline" in table.schema.metadata
    assert datasets.Dataset.from_file(str(shard))["text"] == table["text"].to_pylist()
    loaded = datasets.load_dataset("arrow", data_files=str(shard), split="train", cache_dir=str(tmp_path))
    assert loaded["url"] == table["url"].to_pylist()
    assert polars.read_ipc_stream(shard)["language"].unique().to_list() == ["fr"]


def test_the_notebook_walks_through_the_results(checkout, tmp_path, monkeypatch):
    import altair
    import datasets

    (tmp_path / "results").mkdir()
    (tmp_path / "results/demo").symlink_to(checkout / OUT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    values: dict[str, Any] = {}
    for cell in json.loads((ROOT / "docs/walkthrough.ipynb").read_text())["cells"]:
        assert not cell.get("outputs"), "commit it without what it shows, which is the text of others"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), values)  # noqa: S102 - our own
    charts = [value for value in values.values() if isinstance(value, altair.TopLevelMixin)]
    assert len(charts) == 5
    assert all(chart.to_dict()["datasets"] for chart in charts)
    assert values["table"].loc["neutral", "fr"] < values["table"].loc["backbone", "fr"]


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_commands_of_a_page_run_on_the_results(page, checkout, tmp_path, monkeypatch):
    from test_commands import commands

    from pipeline.__main__ import STAGES as PIPELINE
    from pipeline.common.cli import main
    from train.__main__ import STAGES as TRAIN

    links = {OUT: checkout / OUT}  # where its files say that they are
    links |= {f"results/demo/{path.name}": path for path in (checkout / OUT).iterdir() if path.name != "runs"}
    links |= {
        f"results/demo/runs/{name}": checkout / OUT / "runs/neutral" for name in ("neutral", "neutral-sigmoid")
    }
    links |= {
        "results/breton": checkout / OUT,
        "crawl": checkout / OUT / "crawl",
        "configs/breton.yaml": checkout / CONFIG,
    }
    for name, path in links.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    ran = []
    for command in commands(page):
        words = []
        for word in shlex.split(command, comments=True):
            words += sorted(map(str, Path().glob(word))) if "*" in word else [word]
        if words[:2] == ["python", "-m"] and len(words) > 4 and words[3] in RUN_HERE:
            wing = words[2]
            status = main(wing, "", {"pipeline": PIPELINE, "train": TRAIN}[wing], words[3:])
            assert status == (words[3] == "why"), command  # this page was never in the crawl
            ran.append(words[3])
    assert {"export", "generate", "publish"} <= set(ran)


def test_ledgers_follow_on_from_each_other(checkout):
    from pipeline.common.files import read_json

    stats = read_json(checkout / OUT / "corpus/stats.json")
    extract, dedup, selection, near, quality = stats["ledgers"]
    assert [x["stage"] for x in stats["ledgers"]] == ["extract", "dedup", "filter", "near", "quality"]
    assert extract["kept"]["documents"] == dedup["in"]["documents"] > 200
    assert dedup["kept"] == selection["in"]
    assert selection["kept"] == near["in"]
    assert near["kept"] == quality["in"]
    assert dedup["dropped"]["duplicate_paragraph"]["paragraphs"] > 0
    assert selection["dropped"]["gopher_repeated_5grams"]["documents"] > 0
    assert stats["decontamination"]["sets"][0]["name"] == "quiz"
    assert quality["dropped"]["low_quality"]["documents"] > 0


def test_why_says_of_a_page_of_each_fate_what_archives_and_files_say(checkout, monkeypatch, capsys):
    import polars
    from tokenizers import Tokenizer
    from warcio.archiveiterator import ArchiveIterator

    from pipeline.inspect.why import why

    monkeypatch.chdir(checkout)

    def said(page: str) -> str:
        why(page, OUT, [CONFIG])
        return capsys.readouterr().out

    def urls_in(folder: str) -> set[str]:
        return {url for path in Path(OUT).glob(folder) for url in polars.read_ipc_stream(path)["url"]}

    places: dict[str, list[str]] = {}
    for archive in sorted(Path(OUT).glob("crawl/*.warc.gz")):
        with archive.open("rb") as file:
            for record in (records := ArchiveIterator(file)):
                if record.rec_type == "response":
                    url = record.rec_headers["WARC-Target-URI"]
                    places.setdefault(url, []).append(f"{archive} at {records.get_record_offset():,}")
    folders = ("pages/*/*.arrow", "documents/*.arrow", "filtered/*.arrow", "near/*.arrow", "corpus/*/*.arrow")
    urls = [places.keys(), *map(urls_in, folders), set()]
    stages = ("extract", "dedup", "filter", "near", "quality", "quality")
    for stage, (before, after) in zip(stages, pairwise(urls), strict=True):
        for url in sorted(url for url in before - after if len(places[url]) == 1)[:3]:
            page = said(url)
            assert places[url][0] in page
            *_, last = re.findall(r"^  (\w+) +(\w+)", page, re.MULTILINE)
            assert last == (stage, "dropped" if after else "kept")
    train = polars.read_ipc_stream(f"{OUT}/corpus/fr/train-00001.arrow")
    number = len(train) // 2
    page = said(train["url"][number])
    assert f"fr/train-00001.arrow row {number}" in page
    first, last = (
        int(n.replace(",", "")) for n in re.search(r"domain fr: .* rows (\S+) to (\S+) of", page).groups()
    )
    tokens = polars.read_ipc(f"{OUT}/tokens/fr/train.arrow")["tokens"][first : last + 1].to_list()
    decode = Tokenizer.from_file(f"{OUT}/tokenizer/tokenizer.json").decode
    whole, less = (decode([token for row in rows for token in row[:-1]]) for rows in (tokens, tokens[1:]))
    text = train["text"][number][:-20]  # its end may be the last token of a row
    assert text in whole and text not in less


def test_a_second_run_does_nothing(checkout):
    assert "Nothing to be done" in snakemake(checkout, "--cores", "2", "all", PYTHONPATH=str(checkout))


def planned(folder: Path, *arguments: str) -> set[str]:
    """The rules of which jobs would run."""
    plan = snakemake(folder, *arguments, "-n", "all", PYTHONPATH=str(folder))
    counted = [line.split() for line in plan.splitlines()]
    rules = {words[0] for words in counted if len(words) == 2 and words[1].isdigit()}
    return {rule for rule in rules if rule.isidentifier()} - {"all", "total"}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1))


def with_config(folder: Path, changes: dict[str, Any]) -> str:
    """A copy of the config with values changed by their full keys, such as extend.runs.lora.threads."""
    config = yaml.safe_load((folder / CONFIG).read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    path = folder / "configs" / f"{hashlib.sha256(repr(changes).encode()).hexdigest()[:8]}.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


TRAINED = {"pretrain", "extend_run"}
CORPUS = {"sample_crawl", "extract", "dedup_hash", "dedup_reduce", "dedup_apply", "filter"}
RUNS = "extend.runs.neutral", "backbone.pretrain"
OTHERS = {"evaluate_every": 7, "evaluate_rows": 9, "checkpoint_every": 3, "threads": 2, "device": "cpu",
          "micro_batch_rows": 4, "compile": True, "activation_checkpointing": True, "track": "wandb"}  # fmt: skip
NOTHING = {"engine.workers": 2} | {f"{run}.{key}": value for run in RUNS for key, value in OTHERS.items()}


@pytest.mark.parametrize(
    ("changes", "reruns", "spares"),
    [
        ({"report.title": "Another title"}, {"report"}, {"evaluate_model", "card"}),
        ({"evaluate.generated_tokens": 3}, {"evaluate_model", "report"}, TRAINED),
        ({"dedup.min_chars": 300}, {"dedup_apply", "shards"}, {"extract", "language_model"}),
        ({"extract.min_chars": 300}, {"extract"}, {"sample_crawl", "language_model"}),
        (NOTHING, set(), {"extract", "dedup_reduce", *TRAINED}),
        ({"backbone.pretrain.flat_below": 0.1}, {"pretrain", "extend_run"}, CORPUS),
        ({"domains.fr.urls": "travail"}, {"tokenize", "extend_run", "evaluate_model"}, {"pretrain", "shards"}),
        (
            {"domains.work": {"language": "fr", "urls": "travail"}, "evaluate.others": ["work"]},
            {"tokenize", "evaluate_model", "report"},
            TRAINED,
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_change_of_the_config_reruns_only_what_it_can_change(checkout, changes, reruns, spares):
    rules = planned(checkout, "--configfile", with_config(checkout, changes))
    assert reruns <= rules
    assert not spares & rules
    assert reruns or rules <= {"report"}  # which shows the config, and this one has another name


@pytest.mark.parametrize(
    ("edits", "reruns", "spares"),
    [
        (
            [
                ("pipeline/extract/options.py", "languages to keep", "languages that stay"),
                ("pipeline/corpus/near.py", "import numpy", "# a remark\nimport numpy"),
                ("pipeline/corpus/near.py", "def hash_documents(", "LIMIT = 1\n\n\ndef hash_documents("),
                ("train/report/report.py", "def write_report(", "def write_report(  # a remark"),
            ],
            set(),
            set(),
        ),
        ([("train/report/options.py", "A language added", "A language added here")], {"report"}, TRAINED),
        ([("pipeline/crawl/catalogue.py", "travail-emploi.gouv.fr", "travail.example")], CORPUS, set()),
        (
            [("pipeline/corpus/near.py", "signatures.flush()", "signatures.flush(), True")],
            {"shards", "pretrain"},
            CORPUS,
        ),
        ([("train/report/report.py", "    import vl_convert", "    import vl_convert  \n    assert True")],
         {"report"}, {"evaluate_model", *TRAINED}),
    ],
    ids=["help text, comments, what near does not use", "a default of the report", "the sample's catalogue",
         "near", "the report"],
)  # fmt: skip
def test_an_edit_of_the_code_reruns_only_what_it_can_change(copy, edits, reruns, spares):
    for path, old, new in edits:
        replace(copy / path, old, new)
    rules = planned(copy)
    assert reruns <= rules
    assert not spares & rules
    assert reruns or not rules


def test_results_may_be_copied_into_another_checkout(checkout, tmp_path):
    """Without Snakemake's own records, and with dates in any order."""
    moved = tmp_path / "moved"
    shutil.copytree(checkout, moved, symlinks=True, ignore=shutil.ignore_patterns(".snakemake"))
    files = [path for path in moved.rglob("*") if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(sorted(files, key=lambda path: hashlib.sha256(str(path).encode()).digest())):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    assert not planned(moved)
    shutil.rmtree(moved / ".snakemake")
    changed = with_config(moved, {"dedup.min_chars": 300})
    rules = planned(moved, "--configfile", changed)
    assert {"dedup_apply", "shards"} <= rules and "extract" not in rules


def test_deleted_shards_are_made_again(copy):
    (copy / OUT / "corpus/fr/train-00000.arrow").unlink()
    rules = planned(copy)
    assert "shards" in rules and not {"extract", "near_apply"} & rules


def test_what_is_freed_is_said_first_and_made_again_only_by_a_change_of_the_corpus(copy):
    python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    told = snakemake(copy, "--cores", "1", "clean_intermediate", **python)
    assert told.count("MB of pages/") == 2 and "Freed:\n" in told  # what will go, and what went
    left = {path.split("/")[0] for path in digests(copy)}
    assert {"corpus", "tokens", "backbone", "runs", "evaluate"} <= left and "duplicates" not in left
    assert not list((copy / OUT).glob("pages/*/*.arrow")) and (copy / OUT / "hashes/index.arrow").exists()
    assert not planned(copy)
    # How they were made stays known, without Snakemake's own records too.
    shutil.rmtree(copy / ".snakemake")
    assert not planned(copy)
    replace(copy / "pipeline/corpus/near.py", "signatures.flush()", "signatures.flush(), True")
    assert {"sample_crawl", "extract", "near_hash", "shards", "pretrain"} <= planned(copy)


def test_wrong_config_fails_at_once_with_every_error(copy):
    (copy / CONFIG).write_text("output: x\nbackbone: {source: a}\nextend: {}\nextrct: {}\ntokens: {domain: xx}\n")
    output = snakemake(copy, "--cores", "1", "all", check=False)
    assert "extrct: unknown key; did you mean extract?" in output
    assert "extend.runs: no run" in output


def test_every_stage_killed_at_any_point_and_one_core_give_the_same_bytes(checkout, copy, tmp_path):
    usual = usual_seconds(checkout / OUT / "benchmarks")
    shutil.rmtree(copy / OUT)
    config = yaml.safe_load((copy / CONFIG).read_text())
    config["extend"]["runs"] = {"neutral": config["extend"]["runs"]["neutral"]}  # one run stands for all
    config["export"] = {"runs": ["neutral"]}
    (copy / CONFIG).write_text(yaml.safe_dump(config))
    with preloaded(tmp_path / "stages", STAGES, usual=usual) as python:
        # Some kills are met by a retry, others by a run started again, as its user would: with retries alone
        # Snakemake 9.27 may lose count of its jobs behind a checkpoint ("Out of jobs", its issue 823).
        run_all(copy, python, "--cores", "1", "--retries", "1", "corpus", times=5)
        run_all(copy, python, "--cores", "2", "--retries", "1", "all", times=5)
    stages = killed(tmp_path / "stages")
    assert len(stages) >= 10, stages  # of some twenty stages; a job that ends before its time is not killed
    ours, reference = digests(copy), digests(checkout)
    assert ours == {name: digest for name, digest in reference.items() if name in ours}
    assert {name for name in reference if not name.startswith(("runs", "evaluate"))} <= ours.keys()
    assert "runs/neutral/weights.safetensors" in ours
    assert not list((copy / OUT).rglob("*.part"))


def usual_seconds(benchmarks: Path) -> dict[str, float]:
    """What the quickest job of each stage took, from Snakemake's benchmark files."""
    found: dict[str, float] = {}
    for path in benchmarks.rglob("*.tsv"):
        stage = path.relative_to(benchmarks).parts[0].removesuffix(".tsv").replace("_", "-")
        stage = "sample" if stage == "sample-crawl" else stage
        seconds = [float(row["s"]) for row in csv.DictReader(path.open(), delimiter="\t")]
        found[stage] = min(*seconds, found.get(stage, 1e9))
    return found
