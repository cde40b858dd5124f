"""What a real run on a GPU is packed from, and the run itself on the CPU, with tiny random weights and rows."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import parts, real
from benchmarks.gpu.plan import METHODS, by_value, changes, read_plan
from benchmarks.gpu.steps import Skipped
from benchmarks.gpu.tasks import write_task
from benchmarks.gpu.toys import random_rows
from pipeline.common.errors import StageError
from train.data.rows import open_rows
from train.data.tokens import tokenizer_digest
from train.runs.options import Extend, Run
from train.runs.record import read_run
from train.runs.results import read_task_scores
from train.tasks.accuracy import measure_tasks
from train.tasks.options import Tasks
from train.trainer import loop

RUNS = {
    "full": {"method": "finetune", "learning_rate": 1e-4},
    "blocks-100": {"method": "neutral", "learning_rate": 2e-3, "alpha": 100, "steps": 7, "old_rate": 0.25},
    "blocks": {"method": "neutral", "learning_rate": 2e-3, "alpha": 30, "shard": True},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config whose results, a backbone and rows, are there."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # so little is faster in one
    real.make_toy(tmp_path / "results")
    (tmp_path / "results/rows").rename(tmp_path / "results/tokens")
    path = tmp_path / "config.yaml"
    data = {
        "output": str(tmp_path / "results"),
        "domains": {name: {"language": "en"} for name in ("old", "new", "settle")},
        "tokens": {"row_tokens": real.TOY_ROW_TOKENS},
        "backbone": {"source": "somewhere/else"},
        "extend": {"old": "old", "new": "new", "runs": RUNS},
        "evaluate": {"forgetting": "old", "learning": "new", "prompts": ["7"]},
    }
    path.write_text(yaml.dump(data, sort_keys=False))
    return path


def settled(config: Path) -> Path:
    """The config with a settled backbone; its source is then what lies in its results."""
    (config.parent / "results/backbone").rename(config.parent / "results/source")
    data = yaml.safe_load(config.read_text())
    data["backbone"]["settle"] = {"domain": "settle", "learning_rate": 1e-4}
    config.write_text(yaml.dump(data, sort_keys=False))
    return config


def carry(config: Path, *options: str) -> Path:
    """The folder that comes of packing and unpacking."""
    folder = config.parent / "there"
    parts.main(["pack", "--configfile", str(config), "--output", str(config.parent / "parts"), *options])
    pieces = map(str, (config.parent / "parts").iterdir())
    parts.main(["unpack", "--output", str(folder), *pieces])
    return folder


def job_of(folder: Path, **more: object) -> dict[str, object]:
    return {"folder": str(folder), "work": f"{folder}.work", "tokens": 256, "device": "cpu", "toy": True, **more}


# What is packed ------------------------------------------------------------------------------------


def test_the_runs_of_a_config_are_packed_by_value_with_their_own_options(config: Path) -> None:
    folder = carry(config)
    plan = read_plan(folder)
    assert list(plan.extend.runs) == ["blocks-100", "full", "blocks"]
    assert (plan.settle, plan.tune, plan.tried) == (None, None, {})
    for name, run in RUNS.items():
        assert plan.extend.runs[name] == Run(**run)
    assert (plan.held_out, plan.prompts) == (["old", "new"], ["7"])
    tokenizer = (config.parent / "results/backbone/tokenizer.json").read_bytes()
    assert (folder / "backbone/tokenizer.json").read_bytes() == tokenizer


def test_no_more_rows_travel_than_a_run_reads(config: Path) -> None:
    tokens = config.parent / "results/tokens"
    digest = tokenizer_digest(config.parent / "results/backbone")
    for number, domain in enumerate(("old", "new", "settle")):
        path = tokens / domain / "train.arrow"
        random_rows(1000, real.TOY_ROW_TOKENS, real.SIZES["tiny"]["vocabulary"], number, path, digest)
    folder = carry(settled(config), "--tokens", "65536")
    # Two steps of 512 rows: with p = 0.1 102 of them are old, with 0.25 256.
    for domain, count in {"old": 256, "new": 922, "settle": 1000}.items():
        whole = open_rows(str(tokens / f"{domain}/train.arrow"))
        cut = open_rows(str(folder / f"rows/{domain}/train.arrow"))
        assert len(cut) == count == cut.metadata["rows"]
        index = np.linspace(0, len(whole) - 1, count).astype(int)
        assert (cut.tokens(np.arange(count)) == whole.tokens(index)).all()
        assert (cut.documents(np.arange(count)) == whole.documents(index)).all()
        assert cut.metadata["tokenizer_sha256"] == digest
    for domain in ("old", "new"):
        held_out = (config.parent / f"results/tokens/{domain}/validation.arrow").read_bytes()
        assert (folder / f"rows/{domain}/validation.arrow").read_bytes() == held_out


def test_a_gguf_file_travels_as_it_is_with_the_tokenizer_of_the_results(config: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF and weights")
    config.write_text(config.read_text().replace("somewhere/else", str(tmp_path / "x.gguf")))
    (tmp_path / "gguf-1-py3-none-any.whl").write_bytes(b"wheel")
    folder = carry(config, "--wheels", str(tmp_path / "gguf-1-py3-none-any.whl"))
    assert (folder / "backbone.gguf").read_bytes() == b"GGUF and weights"
    assert (folder / "wheels/gguf-1-py3-none-any.whl").read_bytes() == b"wheel"
    tokenizer = (tmp_path / "results/backbone/tokenizer.json").read_bytes()
    assert (folder / "tokenizer/tokenizer.json").read_bytes() == tokenizer
    assert not (folder / "backbone").exists()


def test_parts_are_small_and_damage_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 50_000)
    carry(config)
    pieces = sorted(map(str, (config.parent / "parts").iterdir()))
    assert len(pieces) > 3
    assert max(Path(piece).stat().st_size for piece in pieces) <= 50_000
    folder = str(config.parent / "again")
    parts.main(["unpack", "--output", folder, *reversed(pieces)])
    assert list(read_plan(folder).extend.runs) == ["blocks-100", "full", "blocks"]
    with pytest.raises(SystemExit, match="part-01 is missing"):
        parts.main(["unpack", "--output", folder, *[p for p in pieces if "part-01" not in p]])
    Path(pieces[0]).write_bytes(b"x")
    with pytest.raises(SystemExit, match="part-00 is damaged"):
        parts.main(["unpack", "--output", folder, *pieces])


def test_what_a_config_or_its_results_lack_is_named(config: Path) -> None:
    pack = ["pack", "--configfile", str(config), "--output", str(config.parent / "parts")]
    with pytest.raises(SystemExit, match="no domain 'elsewhere'; it has old, new, settle"):
        parts.main([*pack, "--tune", "elsewhere"])
    (config.parent / "results/tokens/new/train.arrow").unlink()
    with pytest.raises(SystemExit, match=r"lack .*new/train\.arrow; run `snakemake .*new/train\.arrow`"):
        parts.main(pack)


def test_a_plan_that_leads_out_of_its_folder_is_refused(config: Path) -> None:
    folder = carry(config)
    data = json.loads((folder / "real.json").read_text())
    data["held_out"] = ["../../other"]
    (folder / "real.json").write_text(json.dumps(data))
    with pytest.raises(StageError, match=r"\.\./\.\./other: a name is made of letters"):
        read_plan(folder)


# The order and the options --------------------------------------------------------------------------


@given(st.lists(st.sampled_from(METHODS), min_size=1, max_size=8))
def test_runs_go_by_method_and_a_second_of_a_method_waits(methods: list[str]) -> None:
    made = {f"r{i}": Run(method=method, learning_rate=1e-3) for i, method in enumerate(methods)}
    ordered = by_value(Extend(runs=made)).runs
    assert sorted(ordered) == sorted(made)
    first = [run.method for run in ordered.values()][: len(set(methods))]
    assert first == [method for method in METHODS if method in methods]
    for method in METHODS:
        assert [n for n in ordered if made[n].method == method] == [n for n in made if made[n].method == method]


def test_a_base_comes_before_what_goes_on_from_it() -> None:
    run = {"learning_rate": 1e-3}
    runs = {"second": Run(method="neutral", base="first", **run), "first": Run(method="lora", **run)}
    assert list(by_value(Extend(runs=runs)).runs) == ["first", "second"]


@given(st.floats(1, 1e9), st.sampled_from([64, 1000, 1024, 4096]))
def test_a_run_has_its_tokens_in_steps_of_32768(tokens: float, row_tokens: int) -> None:
    options = changes(tokens, row_tokens, "cuda")
    step = options["batch_rows"] * row_tokens
    assert 32_768 - row_tokens < step <= 32_768
    assert options["steps"] == 1 or abs(options["steps"] * step - tokens) <= step / 2
    assert options["compile"]
    assert 4 * options["checkpoint_every"] >= options["steps"]


# The runs ------------------------------------------------------------------------------------------


def test_runs_begin_from_the_settled_backbone_and_are_done_once(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = carry(settled(config))
    real.source(job_of(folder))
    found = real.settle(job_of(folder))
    assert found["before"]["bpb"] != found["after"]["bpb"]
    before = found["after"]
    found = real.extend_and_evaluate(job_of(folder, name="blocks"))
    assert found["backbone"] == before
    assert set(found["bpb"]) == set(found["kl"]) == {"old", "new"}
    assert found["texts"][0]["prompt"] == "7"
    assert found["training"]["learning_rate"] == 2e-3
    assert found["training"]["changed"]["batch_rows"] == 4
    record = read_run(real.results(job_of(folder)).run("blocks"))
    assert (record.options.alpha, record.options.shard) == (30, False)
    monkeypatch.setattr(real, "extend", None)
    monkeypatch.setattr(real, "evaluate", None)
    assert real.extend_and_evaluate(job_of(folder, name="blocks")) == found


def test_each_method_is_trained_at_the_best_of_the_rates_that_were_tried(config: Path) -> None:
    folder = carry(config, "--tune", "new")
    job = job_of(folder, name="full")
    found = real.rates(job)
    assert list(found["rates"]) == ["5e-05", "0.0001", "0.0002"]
    best = min(found["rates"], key=found["rates"].get)
    assert real.extend_and_evaluate(job)["training"]["learning_rate"] == float(best) == found["factor"] * 1e-4
    output = config.parent / "results.tar.gz"
    real.keep_results(job, output)
    with tarfile.open(output) as tar:
        names = tar.getnames()
    assert {"runs/full/run.json", "runs/full/metrics.jsonl", "evaluate/full.json", "real.json"} <= set(names)
    assert not any("safetensors" in name for name in names)


def test_the_packed_questions_are_asked_as_tasks_does(config: Path) -> None:
    task = write_task(config.parent / "numbers.yaml", 8)
    about = yaml.safe_load(Path(task).read_text())
    about["languages"]["fr"] = {
        "sources": [{"path": "nowhere.jsonl"}],
        "shot_sources": [{"path": "nowhere.jsonl"}],
    }
    Path(task).write_text(yaml.dump(about))
    data = yaml.safe_load(config.read_text())
    data["evaluate"] |= {"tasks": [task], "tasks_limit": 5}
    config.write_text(yaml.dump(data, sort_keys=False))
    folder = carry(config)
    Path(task).rename(config.parent / "kept.yaml")
    with pytest.raises(Skipped, match="no run full yet; let the step `real full` end first"):
        real.ask(job_of(folder, name="full"))
    real.extend_and_evaluate(job_of(folder, name="full"))
    found = {name: real.ask(job_of(folder, name=name)) for name in ("backbone", "full")}
    (config.parent / "kept.yaml").rename(task)
    out, options = real.results(job_of(folder)), Tasks(tasks=[task], tasks_limit=5)
    for name, run in (("backbone", None), ("full", out.run("full"))):
        there = config.parent / "there.json"
        measure_tasks(options, str(folder / "backbone"), run, "", str(there))
        assert there.read_bytes() == Path(out.task_scores(name)).read_bytes()
        assert list(read_task_scores(there).skipped) == ["numbers/fr"]
        (score,) = read_task_scores(there).tasks.values()
        assert found[name]["numbers/en"] == found[name]["mean en"] == [score.headline, score.stderr["raw"]]
        assert score.count == 5


def test_without_settling_a_run_begins_from_the_backbone_as_it_came(config: Path) -> None:
    folder = carry(config)
    found = real.extend_and_evaluate(job_of(folder, name="full"))
    assert Path(read_run(real.results(job_of(folder)).run("full")).backbone) == folder / "backbone"
    assert found["backbone"]["bpb"]["new"] > found["bpb"]["new"]
    with pytest.raises(StageError, match=r"give its config backbone\.settle"):
        real.settle(job_of(folder))


def test_a_run_waits_for_settling(config: Path) -> None:
    folder = carry(settled(config))
    with pytest.raises(StageError, match="let the step `settle` end first"):
        real.extend_and_evaluate(job_of(folder, name="full"))


def test_a_killed_run_goes_on_from_its_checkpoint(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, steps = job_of(carry(config), name="full"), []

    def step(*arguments: object, take_step=loop.take_step) -> object:
        steps.append(arguments[-1].step)
        if steps == [0, 1, 2]:
            raise KeyboardInterrupt
        return take_step(*arguments)

    monkeypatch.setattr(loop, "take_step", step)
    with pytest.raises(KeyboardInterrupt):
        real.extend_and_evaluate(job)
    found = real.extend_and_evaluate(job)
    assert steps == [0, 1, 2, 2, 3]
    assert len(found["training"]["curve"]) == 5
