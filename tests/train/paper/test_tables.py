"""The paper's tables and figures: which runs they need, what is written of made-up results, which claims hold."""

import csv
import os
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from helpers import evaluation, run_record, task_score
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

pytest.importorskip("altair")  # there with all that the report needs

from pipeline.common.config import ConfigError, read, read_yaml
from pipeline.common.errors import StageError
from train.config import Config
from train.paper.claims import judge
from train.paper.grid import Claim, Grid, Target
from train.paper.plan import changed, plan
from train.paper.spectrum import singular_values, write_spectrum
from train.paper.tables import RunResult, changes, write_table
from train.runs.options import Run
from train.runs.record import write_record
from train.runs.results import TaskScores, write_result

GRID = ROOT / "configs" / "paper" / "grid.yaml"


def demo(**paper: Any) -> Config:
    data = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    return read(Config, data | {"paper": paper})


def test_every_row_of_the_grid_is_planned_once_a_seed_and_equal_rows_are_one_run() -> None:
    seeds = [0, 3]
    found = plan(demo(seeds=seeds), GRID)
    assert not found.missing
    settings = [tuple(sorted(vars(run).items(), key=str)) for run in found.runs.values()]
    assert len(set(map(str, settings))) == len(settings)
    used = {name for target in found.names for name in found.of(target)}
    assert set(found.runs) <= used
    # The config's own runs have seed 0, so they serve where nothing is changed.
    assert used - set(found.runs) == {"finetune", "lora", "adapter", "neutral"}
    for name, target in found.grid.targets.items():
        assert {key: len(runs) for key, runs in found.names[name].items()} == dict.fromkeys(target.rows, 2)
        for key, row in target.rows.items():
            runs = [found.runs.get(run) or demo().extend.runs[run] for run in found.names[name][key]]
            assert [run.seed for run in runs] == seeds
            assert {run.method for run in runs} == {row.method}
    assert found.names["table8"] == found.names["figure1"]
    assert found.names["table1"]["p0.1"] == found.names["table6"]["adapter"] == found.names["table2"]["adapter"]
    assert found.names["table7"]["a0"] == found.names["table6"]["elu"]


def test_a_run_of_the_config_that_has_the_name_of_another_one_of_the_grid_is_refused() -> None:
    config = demo()
    name, run = next(iter(plan(config, GRID).runs.items()))
    for own, refused in ((run, False), (replace(run, steps=run.steps + 1), True)):
        extend = replace(config.extend, runs=config.extend.runs | {name: own})
        with pytest.raises(ConfigError, match=f"extend.runs.{name}: .*another run") if refused else nullcontext():
            plan(replace(config, extend=extend), GRID)


def test_a_target_that_the_config_cannot_make_says_why_and_the_others_stay() -> None:
    data = yaml.safe_load((ROOT / "configs" / "test.yaml").read_text())
    del data["extend"]["runs"]["lora"]
    found = plan(read(Config, data), GRID)
    with pytest.raises(ConfigError, match=r"paper/table5: no run of method lora .* add one"):
        found.of("table5")
    assert "table1" in found.names
    assert "table2" not in found.names
    lacking = plan(read(Config, yaml.safe_load((ROOT / "configs" / "test.yaml").read_text())), GRID)
    assert list(lacking.missing) == ["table5"]
    with pytest.raises(ConfigError, match="no domain 'de' to learn; add it to domains"):
        lacking.of("table5")


@pytest.mark.slow
def test_the_workflow_plans_every_run_once_and_says_what_is_left_out(tmp_path: Any, snakemake_python: str) -> None:
    asked = tmp_path / "tasks.yaml"
    asked.write_text("evaluate: {tasks: [arc_challenge]}")
    command = [snakemake_python, "-m", "snakemake", "-n", "--cores", "1", "--nolock"]
    command += ["--configfile", "configs/test.yaml", str(asked)]
    command += ["--config", f"output={tmp_path}", "--", "paper"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    jobs = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    found = plan(read_yaml(Config, ROOT / "configs" / "test.yaml"), GRID)
    used = {name for target in found.names for name in found.of(target)}
    assert int(jobs["extend_run"]) == len(used)
    assert int(jobs["evaluate_model"]) == int(jobs["tasks_model"]) == len(used) + 1
    assert int(jobs["paper_table"]) + int(jobs["paper_spectrum"]) == len(found.names)
    assert "left out: table5, no domain 'de' to learn" in done.stdout + done.stderr


@given(st.sampled_from([1e-5, 5e-5, 1e-3, 0.7]), st.sampled_from([0.1, 0.25, 0.4, 1, 2.5, 4, 10]))
def test_a_rate_is_a_factor_and_comes_out_as_one_would_write_it(rate: float, factor: float) -> None:
    run = changed(Run(method="lora", learning_rate=rate), {"rate": factor})
    assert run.learning_rate == pytest.approx(rate * factor)
    assert len(repr(run.learning_rate).strip("0.").split("e")[0]) < 6


def test_alpha_is_a_factor_of_alpha_or_of_its_ratio() -> None:
    assert changed(Run(learning_rate=1, alpha=3.0), {"alpha": 10}).alpha == 30
    auto = Run(learning_rate=1, alpha="auto", alpha_ratio=0.5)
    assert changed(auto, {"alpha": 10}) == Run(learning_rate=1, alpha="auto", alpha_ratio=5)
    assert changed(auto, {"alpha": 0}).alpha == 0
    with pytest.raises(ConfigError, match=r"rows\.x\.set: gait: unknown key; did you mean gate"):
        changed(auto, {"gait": "elu"}, "rows.x.set")


def test_a_wrong_grid_is_refused_with_all_that_is_wrong() -> None:
    row = {"label": "a", "method": "lora", "paper": [1.0]}
    wrong = {"title": "t", "columns": ["EN", "FR"], "rows": {"a": row}, "claims": [
        {"text": "x", "forgetting": True, "lower": [["a", "b"]]}, {"text": "y", "optimum": "a"},
        {"text": "z", "flatter": [["a", "a"]]}]}  # fmt: skip
    with pytest.raises(ConfigError) as error:
        read(Target, wrong)
    text = str(error.value)
    assert "1 numbers for 2 columns" in text
    assert "claims[0]: no row 'b'; rows has a" in text
    assert "claims[2].flatter: is for targets with a spectrum" in text
    for claim in ({}, {"optimum": "a", "every": "lora"}):
        with pytest.raises(ConfigError, match="give exactly one of"):
            read(Claim, {"text": "y", "forgetting": True} | claim)
    with pytest.raises(ConfigError, match="say what it is about"):
        read(Claim, {"text": "y", "lower": [["a", "b"]]})


# Made-up results ----------------------------------------------------------------------------------

MADE_UP = {
    "title": "Made up",
    "note": "A note.",
    "columns": ["EN", "FR", "EN tasks"],
    "backbone": [0.663, 1.175, 47.0],
    "rows": {
        "a": {"label": "adapter, p = 0", "method": "adapter", "paper": [0.72, 0.81, 45.0]},
        "n": {"label": "neutral", "method": "neutral"},
    },
    "claims": [
        {"text": "Neutral is better on both axes", "forgetting": True, "learning": True, "lower": [["n", "a"]]},
        {"text": "Neutral forgets less", "forgetting": True, "lower": [["n", "a"]]},
    ],
}


def run_folder(folder: Any, name: str, seed: int, forgetting: float, learning: float, seconds: float) -> list[str]:
    write_record(folder / name, run_record("neutral", seconds, seed=seed))
    return [str(folder / name), measured(folder / f"{name}.json", forgetting, learning)]


def measured(path: Any, forgetting: float, learning: float) -> str:
    write_result(path, evaluation(run=None, old=forgetting, new=learning))
    return str(path)


def test_a_table_of_made_up_results(tmp_path: Any) -> None:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"targets": {"table9": MADE_UP}}))
    found = [
        run_folder(tmp_path, "a-0", 0, 1.5, 2.0, 10),
        run_folder(tmp_path, "a-1", 1, 1.7, 2.2, 20),
        run_folder(tmp_path, "n-0", 0, 1.25, 2.25, 30),
        run_folder(tmp_path, "n-1", 1, 1.25, 2.05, 30),
    ]
    base = measured(tmp_path / "base.json", 1.2, 4.0)
    runs, evaluations = (list(paths) for paths in zip(*found, strict=True))
    output = str(tmp_path / "table9")
    grid = str(tmp_path / "grid.yaml")
    write_table(grid, "table9", runs, evaluations, base, "old", "new", None, [], output)
    lines = (tmp_path / "table9.md").read_text().splitlines()
    assert lines[0] == "# table9: Made up"
    assert "A note." in lines
    table = [line for line in lines if line.startswith("|")]
    assert table == [
        "| | old | change | new | change | trained weights | training, s "
        "| paper: EN | paper: FR | paper: EN tasks |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| backbone | 1.200 |  | 4.000 |  |  |  | 0.663 | 1.175 | 47 |",
        "| adapter, p = 0 | 1.600 (1.500 to 1.700) | +0.400 | 2.100 (2.000 to 2.200) | -1.900 | 1,200 | 15 "
        "| 0.720 | 0.810 | 45 |",
        "| neutral | 1.250 (1.250 to 1.250) | +0.050 | 2.150 (2.050 to 2.250) | -1.850 | 1,200 | 30 |  |  |  |",
    ]
    assert "- **Does not hold**: Neutral is better on both axes." in lines
    assert "    - learning: n 2.1500 >= a 2.1000 (1 of 2 seeds)" in lines
    assert "- **Holds**: Neutral forgets less." in lines
    with (tmp_path / "table9.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"], row["forgetting"]) for row in rows] == [
        ("backbone", "", "1.2"), ("a", "0", "1.5"), ("a", "1", "1.7"), ("n", "0", "1.25"), ("n", "1", "1.25")
    ]  # fmt: skip
    assert [row["paper FR"] for row in rows] == ["1.175", "0.81", "0.81", "", ""]
    assert (tmp_path / "table9.png").read_bytes().startswith(b"\x89PNG")
    assert "the paper" in (tmp_path / "table9.svg").read_text()
    with pytest.raises(StageError, match="3 runs for 2 rows"):
        write_table(grid, "table9", runs[:3], evaluations[:3], base, "old", "new", None, [], output)
    with pytest.raises(StageError, match=r"de was not measured; add it to evaluate\.others"):
        write_table(grid, "table9", runs, evaluations, base, "old", "de", None, [], output)


def test_a_change_is_of_the_mean_over_the_seeds_and_has_its_interval() -> None:
    def result(name: str, value: float, documents: int = 40) -> RunResult:
        scored = evaluation(name, documents=documents, old=value).domains["old"]
        return RunResult({"forgetting": scored}, {}, name, run_record("neutral"))

    rows = {"a": [result("a-0", 1.5), result("a-1", 1.7)], "older": [result("b-0", 1.4), result("b-1", 1.5, 0)]}
    found = changes("forgetting", rows, result("base", 1.2))
    assert found["a"].value == pytest.approx(0.4) and found["older"].value == pytest.approx(0.25)
    assert 0.39 < found["a"].low < 0.4 < found["a"].high < 0.41
    assert found["older"].low is None


def test_accuracies_stand_beside_bits_per_byte(tmp_path: Any) -> None:
    """The mean over a language's tasks by the configured metric, its error, and the range over the seeds."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"targets": {"table9": MADE_UP}}))
    (tmp_path / "tasks").mkdir()

    def asked(model: str, arc: float, belebele: float, french: dict[str, float]) -> None:
        values = {"arc/en": arc, "belebele/en": belebele} | french
        tasks = {name: task_score(value, 0.03) for name, value in values.items()}
        scores = TaskScores(model=model, tasks=tasks, skipped={})
        write_result(tmp_path / "tasks" / f"{model}.json", scores)

    asked("backbone", 0.5, 0.3, {"arc/fr": 0.25})
    found = []
    for name, seed, arc in (("a-0", 0, 0.2), ("a-1", 1, 0.3), ("n-0", 0, 0.4), ("n-1", 1, 0.4)):
        asked(name, arc, 0.3, {"arc/fr": arc})
        found.append(run_folder(tmp_path, name, seed, 1.5, 2.0, 10))
    base = measured(tmp_path / "base.json", 1.2, 4.0)
    runs, evaluations = (list(paths) for paths in zip(*found, strict=True))
    arguments = (str(tmp_path / "grid.yaml"), "table9", runs, evaluations, base, "old", "new")
    write_table(*arguments, str(tmp_path / "tasks"), ["en", "fr", "de"], str(tmp_path / "table9"))
    text = (tmp_path / "table9.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[6:9]] for line in text.splitlines() if line[:2] == "| "]
    assert table == [
        ["en tasks", "fr tasks", "de tasks"],
        ["40.0 ± 2.1", "25.0 ± 3.0", "none"],
        ["27.5 (25.0 to 30.0) ± 2.1", "25.0 (20.0 to 30.0) ± 3.0", "none"],
        ["35.0 (35.0 to 35.0) ± 2.1", "40.0 (40.0 to 40.0) ± 3.0", "none"],
    ]
    assert "± its standard error" in text
    with (tmp_path / "table9.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fr tasks"]) for row in rows] == pytest.approx([25, 20, 30, 40, 40])
    assert [float(row["en tasks stderr"]) for row in rows] == pytest.approx([3 / 2**0.5] * 5)


def test_claims_of_the_paper_hold_on_the_papers_own_numbers() -> None:
    """But for those that its own tables contradict or leave out, which are named here."""
    against = {
        "p = 0.1 learns more than p = 0.5": True,
        "The low variance init. learns more with a gate": True,
        "Neutral residues learn more than LoRA and the vanilla adapter": True,
    }
    for name, target in read_yaml(Grid, GRID).targets.items():
        if target.columns[:2] != ["EN", "FR"]:
            continue
        values = {
            key: {"forgetting": [row.paper[0]], "learning": [row.paper[1]]}
            for key, row in target.rows.items()
            if row.paper
        }
        methods = {key: row.method for key, row in target.rows.items()}
        for claim in target.claims:
            if claim.names() <= set(values):
                assert judge(claim, values, methods).holds == against.get(claim.text, True), (name, claim.text)


def two(forgetting: float, learning: float) -> dict[str, list[float]]:
    return {"forgetting": [forgetting], "learning": [learning]}


def test_claims_fail_where_the_numbers_say_otherwise() -> None:
    values = {"a": two(1.0, 2.0), "b": two(1.2, 1.7), "c": two(1.5, 1.9)}
    methods = {"a": "neutral", "b": "neutral", "c": "lora"}

    def holds(**claim: Any) -> bool:
        return judge(Claim(text="x", **claim), values, methods).holds

    assert holds(optimum="b")
    assert not holds(optimum="a")
    assert holds(lower=[["a", "b"], ["b", "c"]], forgetting=True)
    assert not holds(lower=[["a", "b"], ["c", "b"]], forgetting=True)
    assert not holds(lower=[["a", "b"]], forgetting=True, learning=True)
    assert holds(steadier=[["a", "b"], ["a", "c"]], forgetting=True)
    assert not holds(steadier=[["a", "b"], ["a", "c"]], learning=True)
    assert holds(every="neutral", forgetting=True)
    assert not holds(every="neutral", learning=True)
    flat = {"a": {"flatness": [0.5]}, "b": {"flatness": [0.4]}}
    assert judge(Claim(text="x", flatter=[["a", "b"]]), flat, {}).holds
    assert not judge(Claim(text="x", flatter=[["b", "a"]]), flat, {}).holds


# Figure 3 -----------------------------------------------------------------------------------------


def matrix(values: list[float], rows: int = 6) -> torch.Tensor:
    """rows x len(values) of these singular values."""
    torch.manual_seed(len(values))
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in (rows, len(values)))
    return left[:, : len(values)] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right


@given(st.lists(st.floats(0, 8), min_size=1, max_size=6))
def test_singular_values_of_a_known_spectrum(values: list[float]) -> None:
    expected = sorted(values, reverse=True)
    found = singular_values(matrix(values))
    if expected[0] > 1e-6:
        assert found == pytest.approx([value / expected[0] for value in expected], abs=1e-9)
    assert singular_values(torch.zeros(3, 2)) == [0, 0]


def test_a_figure_of_known_spectra(tmp_path: Any) -> None:
    rows = {key: {"label": key, "method": "neutral"} for key in ("skewed", "flat")}
    claims = [{"text": "flat is flatter", "flatter": [["flat", "skewed"]]},
              {"text": "the backbone is flatter", "flatter": [["backbone", "flat"]]}]  # fmt: skip
    target = {"title": "t", "spectrum": True, "rows": rows, "claims": claims}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"targets": {"figure9": target}}, sort_keys=False))
    spectra = {"skewed": [4.0, 1.0, 0.4], "flat": [4.0, 4.0, 4.0], "backbone": [4.0, 4.0, 2.0]}
    for name, values in spectra.items():
        (tmp_path / name).mkdir()
        block = "" if name == "backbone" else "block."
        tensors = {f"model.layers.{i}.mlp.{block}gate_proj.weight": matrix(values) for i in range(12)}
        other = {"model.layers.0.mlp.block.up_proj.weight": matrix([1.0, 0.0])}
        save_file(
            {k: v.float().contiguous() for k, v in (tensors | other).items()},
            tmp_path / name / "weights.safetensors",
        )
    runs = [str(tmp_path / name) for name in rows]
    write_spectrum(
        str(tmp_path / "grid.yaml"), "figure9", runs, str(tmp_path / "backbone"), str(tmp_path / "figure9")
    )
    text = (tmp_path / "figure9.md").read_text()
    assert "| skewed | 0.450 | 0.450 |" in text
    assert "| flat | 1.000 | 1.000 |" in text
    assert "- **Holds**: flat is flatter." in text
    assert "- **Does not hold**: the backbone is flatter." in text
    with (tmp_path / "figure9.csv").open() as file:
        points = list(csv.DictReader(file))
    assert len(points) == 3 * 12 * 3
    # Layer 10 comes after layer 9, not after layer 1.
    assert list(dict.fromkeys(int(point["layer"]) for point in points)) == list(range(12))
    assert (tmp_path / "figure9.png").read_bytes().startswith(b"\x89PNG")
