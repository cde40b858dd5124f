"""The paper's settings are configs, and so is every row of its ablations."""

from typing import Any

import pytest
from conftest import ROOT

from pipeline.common.config import read, read_yaml
from train.config import Config
from train.paper.plan import plan
from train.runs.options import METHODS, Run

PAPER = ROOT / "configs" / "paper"
# The steps of each setting (Table 9).
SETTINGS = {"transf-en": 100_000, "transf-ml": 100_000, "gemma-2b": 150_000}


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
    steps = SETTINGS[name]
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
