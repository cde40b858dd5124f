"""The paper's settings are configs: their sizes, their cost, and every row of its ablations."""

from typing import Any

import pytest
import yaml
from conftest import ROOT

from models.backbone import unique_parameters
from pipeline.config import read, read_yaml
from train.cost import cost_rows, print_cost, sketch
from train.options import Config, Run

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
    assert "| neutral | 3,007M | 501M |" in capsys.readouterr().out


# Table, row, name of the run, and what makes the row.
ROWS: list[tuple[int, str, str, dict[str, Any]]] = [
    *((1, f"p {p}", name, {"method": "adapter", "old_rate": p}) for p, name in (
        (0, "adapter-p0"), (0.01, "adapter-p0.01"), (0.1, "adapter"), (0.5, "adapter-p0.5"))),
    *((2, f"{method} p {p}", method + suffix, {"method": method, "old_rate": p})
      for method in ("finetune", "lora", "adapter", "neutral") for p, suffix in ((0, "-p0"), (0.1, ""))),
    *((3, f"+{share:.0%}", name, {"method": "neutral", "fraction": share}) for share, name in (
        (0.05, "neutral-5"), (0.1, "neutral-10"), (0.2, "neutral"), (0.5, "neutral-50"))),
    (6, "none, l1", "none-l1-he", {"gate": "none", "alpha": 100, "init": "he"}),
    (6, "none, l1, our init", "none-l1", {"gate": "none", "alpha": 100, "init": "low_variance"}),
    (6, "sigmoid, CE", "sigmoid-ce-he", {"gate": "sigmoid", "alpha": 0, "beta": 1, "init": "he"}),
    (6, "sigmoid, CE, our init", "sigmoid-ce", {"gate": "sigmoid", "alpha": 0, "beta": 1, "init": "low_variance"}),
    (6, "sigmoid, l1, CE, our init", "sigmoid-ce-l1",
     {"gate": "sigmoid", "alpha": 100, "beta": 1, "init": "low_variance"}),
    (6, "ELU, l1", "elu-l1-he", {"gate": "elu", "alpha": 100, "init": "he"}),
    (6, "ELU, our init", "elu", {"gate": "elu", "alpha": 0, "init": "low_variance"}),
    (6, "ELU, l1, our init", "neutral", {"gate": "elu", "alpha": 100, "init": "low_variance"}),
    *((7, f"alpha {alpha}", name, {"gate": "elu", "alpha": alpha}) for alpha, name in (
        (0, "elu"), (1, "neutral-alpha1"), (10, "neutral-alpha10"), (100, "neutral"),
        (1000, "neutral-alpha1000"))),
    *((8, f"{method} {rate}", name, {"method": method, "learning_rate": float(rate)})
      for method, own in (("finetune", "2e-4"), ("lora", "5e-5"), ("adapter", "5e-5"), ("neutral", "5e-5"))
      for rate in ("2e-5", "5e-5", "2e-4", "5e-4")
      for name in [method if rate == own else f"{method}-{rate}"]),
]  # fmt: skip


def test_every_ablation_is_a_run_of_a_config() -> None:
    data = yaml.safe_load((PAPER / "transf-en.yaml").read_text())
    data["extend"]["runs"] |= yaml.safe_load((PAPER / "tables.yaml").read_text())["extend"]["runs"]
    runs = read(Config, data).extend.runs
    assert {name for _, _, name, _ in ROWS} == set(runs)
    defaults: dict[str, Any] = {"fraction": 0.2, "old_rate": 0.1, "gate_bias": True, "steps": 100_000}
    for table, row, name, expected in ROWS:
        found = {key: getattr(runs[name], key) for key in defaults | expected}
        assert found == defaults | expected, f"Table {table}, {row}"
        if table in (6, 7):
            assert runs[name].method == "neutral"


def test_what_the_tables_leave_out_can_be_asked_for_too() -> None:
    """A vanilla adapter with low variance, neutral residues with He's and ReLU, gates without a bias."""
    for change in (
        {"gate": "none", "alpha": 0, "init": "low_variance"},
        {"gate": "relu", "init": "he", "gate_bias": False},
        {"gate": "sigmoid", "beta": 0},
        {"placement": "after_norm"},
    ):
        assert isinstance(read(Run, {"learning_rate": 1} | change), Run)
