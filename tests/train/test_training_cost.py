"""The cost of the paper's settings: their sizes are the paper's, and the sums are those made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import run_record

from models.backbone import unique_parameters
from pipeline.common.config import read_yaml
from pipeline.workflow.layout import Layout
from train import cost
from train.config import Config
from train.cost import cost_rows, print_cost, sketch
from train.runs.record import write_record

PAPER = ROOT / "configs" / "paper"
# Table 9, and the numbers of weights: 0.96B is ours, Gemma-2B's is 2.51B as published.
SETTINGS = {
    "transf-en": ((16, 2048, 5632, 100_000, 64), 0.956e9),
    "transf-ml": ((16, 2048, 5632, 100_000, 64), 0.956e9),
    "gemma-2b": ((18, 2048, 16384, 150_000, 8), 2.506e9),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_settings_are_those_of_table_9(name: str) -> None:
    path = PAPER / f"{name}.yaml"
    config = read_yaml(Config, path)
    expected, parameters = SETTINGS[name]
    model = sketch(config, str(path))
    sizes = (model.config.num_hidden_layers, model.config.hidden_size, model.config.intermediate_size)
    assert next(model.parameters()).device.type == "meta"
    for run in config.extend.runs.values():
        assert (*sizes, run.steps, run.batch_rows) == expected
        assert (run.beta1, run.beta2, run.old_rate, run.fraction) == (0.9, 0.95, 0.1, 0.2)
        assert run.learning_rate == (2e-4 if run.method == "finetune" else 5e-5)
    assert config.tokens.row_tokens == 4096
    assert unique_parameters(model) == pytest.approx(parameters, rel=1e-3)


@pytest.mark.slow
def test_cost_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(PAPER / "gemma-2b.yaml")
    rows = {row[0]: row[1:] for row in cost_rows(read_yaml(Config, path), path, [1, 8], 0.45)}
    assert list(rows) == ["finetune", "lora", "adapter", "neutral"]
    # By hand: 6 N + 12 L H T, with N = 2.506e9 products, eight heads of width 256 and T = 4096.
    flops = 6 * 2.506e9 + 12 * 18 * 2048 * 4096
    hours = flops * 150_000 * 8 * 4096 / (0.45 * 989e12) / 3600
    assert float(rows["finetune"][2]) == pytest.approx(flops / 1e9, abs=0.01)
    assert [float(cell) for cell in rows["finetune"][4:6]] == pytest.approx([hours, hours / 8], rel=0.02)
    print_cost(path, [1, 8], 0.45)
    assert "| neutral | 3,009M | 503M |" in capsys.readouterr().out


def test_the_speed_is_the_measured_one_of_the_same_training_else_of_the_method_else_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Layout(tmp_path / "results")
    lines = [
        {"step": "machine", "job": {}, "found": {"card": "NVIDIA X"}},
        {"step": "speed 135M neutral", "job": {"sizes": "135M"}, "found": {"mfu": 0.1}},
        {"step": "speed 135M neutral", "job": {"sizes": "135M"}, "found": {"mfu": 0.2}},
        {"step": "speed 135M neutral, eager", "job": {"sizes": "135M"}, "found": {"mfu": 0.01}},
        {"step": "speed 1B neutral", "job": {"sizes": "1B"}, "found": {"mfu": 0.3}},
        {"step": "speed 1B lora", "job": {"sizes": "1B"}, "failed": "killed"},
    ]
    (tmp_path / "gpu.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(cost, "BENCHMARKS", tmp_path / "gpu.jsonl")
    assert cost.find_mfu("none", "neutral", 10**8) == (0.2, "measured on NVIDIA X at 135M, neutral")
    assert cost.find_mfu("none", "neutral", 8 * 10**8) == (0.3, "measured on NVIDIA X at 1B, neutral")
    assert cost.find_mfu("none", "adapter", 10**9) == (0.3, "measured on NVIDIA X at 1B, neutral")
    assert cost.find_mfu("none", "lora", 10**9) == (0.45, "assumed")
    steps = [{"mfu": 0.5}, {"evaluation": {}}, {"mfu": 0.6}, {"mfu": 0.1}]
    for name, metrics in {"a": steps, "cpu": [{}]}.items():
        write_record(results.run(name), replace(run_record("neutral"), device="NVIDIA Y"))
        Path(results.metrics(name)).write_text("\n".join(map(json.dumps, metrics)))
    own = results.run("a")
    assert cost.find_mfu(own, "neutral", 10**8) == (0.5, f"measured in {own} on NVIDIA Y")
    assert cost.find_mfu(results.run("cpu"), "neutral", 10**8) == (0.2, "measured on NVIDIA X at 135M, neutral")
    monkeypatch.setattr(cost, "BENCHMARKS", tmp_path / "none")
    assert cost.find_mfu(results.backbone, "finetune", 10**8) == (0.45, "assumed")


def test_the_benchmarks_of_this_repository_are_read() -> None:
    assert all(0 < mfu < 1 and "NVIDIA" in where for _, mfu, where in cost.benchmarks("neutral"))
    assert cost.benchmarks("neutral") and cost.benchmarks("finetune")
