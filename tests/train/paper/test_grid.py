"""The paper's settings are configs: their sizes, their cost, and every row of its ablations."""

from typing import Any

import pytest
from conftest import ROOT

from models.backbone import unique_parameters
from pipeline.common.config import read, read_yaml
from train.config import Config
from train.cost import cost_rows, print_cost, sketch
from train.paper.plan import plan
from train.runs.options import METHODS, Run

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
    assert "| neutral | 3,007M | 501M |" in capsys.readouterr().out


# Table, row, and what makes the row in the paper's own setting.
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    *(("table1", f"p{p}", {"method": "adapter", "old_rate": p}) for p in (0, 0.01, 0.1, 0.5)),
    *(("table2", method + suffix, {"method": method, "old_rate": p})
      for method in METHODS for p, suffix in ((0, "-p0"), (0.1, ""))),
    *(("table3", f"f{share}", {"method": "neutral", "fraction": share}) for share in (0.05, 0.1, 0.2, 0.5)),
    *((table, method, {"method": method}) for table in ("table4", "table5") for method in METHODS),
    ("table6", "adapter", {"method": "adapter"}),
    ("table6", "none-l1-he", {"gate": "none", "alpha": 100, "init": "he"}),
    ("table6", "none-l1", {"gate": "none", "alpha": 100, "init": "low_variance"}),
    ("table6", "sigmoid-ce-he", {"gate": "sigmoid", "alpha": 0, "beta": 1, "init": "he"}),
    ("table6", "sigmoid-ce", {"gate": "sigmoid", "alpha": 0, "beta": 1, "init": "low_variance"}),
    ("table6", "sigmoid-ce-l1", {"gate": "sigmoid", "alpha": 100, "beta": 1, "init": "low_variance"}),
    ("table6", "elu-l1-he", {"gate": "elu", "alpha": 100, "init": "he"}),
    ("table6", "elu", {"gate": "elu", "alpha": 0, "init": "low_variance"}),
    ("table6", "elu-l1", {"gate": "elu", "alpha": 100, "init": "low_variance"}),
    ("table6", "relu-l1", {"gate": "relu", "alpha": 100, "init": "low_variance"}),
    *(("table7", f"a{factor}", {"method": "neutral", "gate": "elu", "alpha": alpha})
      for factor, alpha in (("0", 0), ("0.01", 1), ("0.1", 10), ("1", 100), ("10", 1000))),
    *((target, f"{method}-{rate}", {"method": method, "learning_rate": float(rate)})
      for target in ("table8", "figure1") for method in METHODS for rate in ("2e-5", "5e-5", "2e-4", "5e-4")),
    ("figure3", "adapter", {"method": "adapter"}),
    ("figure3", "sigmoid-ce", {"gate": "sigmoid", "alpha": 0, "beta": 1, "init": "low_variance"}),
    ("figure3", "elu-l1", {"gate": "elu", "alpha": 100, "init": "low_variance"}),
    *(("budgets", f"{method}-{share}", {"method": method, "fraction": share})
      for method in ("lora", "adapter", "neutral") for share in (0.05, 0.1, 0.2, 0.5)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_grid_is_the_papers_own_tables_in_the_papers_settings(name: str) -> None:
    found = plan(read_yaml(Config, PAPER / f"{name}.yaml"), PAPER / "grid.yaml")
    runs = found.runs | read_yaml(Config, PAPER / f"{name}.yaml").extend.runs
    assert [(target, row) for target, rows in found.names.items() for row in rows] == [x[:2] for x in ROWS]
    steps = SETTINGS[name][0][3]
    defaults: dict[str, Any] = {"fraction": 0.2, "old_rate": 0.1, "gate_bias": True, "steps": steps, "seed": 0}
    for target, row, expected in ROWS:
        (run,) = found.names[target][row]
        expected = defaults | {"method": "neutral", "new": "de" if target == "table5" else None} | expected
        if target not in ("table8", "figure1"):
            expected |= {"learning_rate": 2e-4 if expected["method"] == "finetune" else 5e-5}
        assert {key: getattr(runs[run], key) for key in expected} == expected, f"{target}, {row}"


def test_what_the_tables_leave_out_can_be_asked_for_too() -> None:
    """A vanilla adapter with low variance, neutral residues with He's and ReLU, gates without a bias."""
    for change in (
        {"gate": "none", "alpha": 0, "init": "low_variance"},
        {"gate": "relu", "init": "he", "gate_bias": False},
        {"gate": "sigmoid", "beta": 0},
        {"placement": "after_norm"},
    ):
        assert isinstance(read(Run, {"learning_rate": 1} | change), Run)
