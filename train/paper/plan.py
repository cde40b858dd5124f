"""The runs that a config needs for the paper's tables and figures.

It imports nothing heavy, since Snakemake reads it at every start.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import ConfigError, read, read_yaml, to_data
from train.config import Config, eval_domains
from train.paper.grid import Grid, Target
from train.runs.options import Run


@dataclass(frozen=True)
class Plan:
    """Which run each row of each target is, for each seed: `names[target][row][i]`, and `runs` by name.

    `missing` says of a target why this config cannot make it.
    """

    grid: Grid
    names: dict[str, dict[str, list[str]]]
    runs: dict[str, Run]
    missing: dict[str, str]

    def of(self, target: str) -> list[str]:
        """The runs of a target in the order of its rows, for each row one a seed. Raises ConfigError."""
        if target in self.missing:
            raise ConfigError(f"paper/{target}: {self.missing[target]}")
        return [name for names in self.names[target].values() for name in names]


def plan(config: Config, grid_path: str | Path) -> Plan:
    """The runs that a config needs for every target. Raises ConfigError where the grid is wrong.

    Rows of the same settings and seed are one run, and a run that the config has already is used as it is.
    """
    grid = read_yaml(Grid, grid_path)
    bases = method_runs(config.paper.runs or config.extend.runs)
    runs: dict[str, Run] = {}
    names: dict[str, dict[str, list[str]]] = {}
    missing = {
        name: problem for name, target in grid.targets.items() if (problem := _missing(target, config, bases))
    }
    for name, target in grid.targets.items():
        if name in missing:
            continue
        names[name] = {key: [] for key in target.rows}
        for key, row in target.rows.items():
            base = bases[row.method]
            changes = row.set | ({"new": target.new} if target.new else {})
            first = changed(base, changes, f"{grid_path}: targets.{name}.rows.{key}.set")
            for seed in config.paper.seeds:
                run = dataclasses.replace(first, seed=seed)
                known = (other for other, settings in config.extend.runs.items() if settings == run)
                own_name = next(known, None) or run_name(base, run)
                names[name][key].append(own_name)
                if (config.extend.runs | runs).get(own_name, run) != run:
                    raise ConfigError(
                        f"extend.runs.{own_name}: the paper's grid has another run of this name; rename it"
                    )
                if own_name not in config.extend.runs:
                    runs[own_name] = run
    return Plan(grid, names, runs, missing)


def method_runs(runs: dict[str, Run]) -> dict[str, Run]:
    """A run of each method to start from: the one of the method's name, or its first one on the backbone."""
    by_method = {name: run for name, run in runs.items() if name == run.method and run.base is None}
    for run in runs.values():
        if run.base is None:
            by_method.setdefault(run.method, run)
    return by_method


def _missing(target: Target, config: Config, bases: dict[str, Run]) -> str | None:
    """Why a config cannot make a target, if so."""
    if lacking := sorted({row.method for row in target.rows.values()} - set(bases)):
        return f"no run of method {', '.join(lacking)} to start from; add one to paper.runs or extend.runs"
    if target.new and target.new not in config.domains:
        return f"no domain {target.new!r} to learn; add it to domains"
    if target.new and target.new not in eval_domains(config):
        return f"the domain {target.new!r} is not measured; add it to evaluate.others"
    return None


def changed(base: Run, changes: dict[str, Any], where: str = "set") -> Run:
    """`base` with some options changed: `rate` multiplies its learning rate, `alpha` its alpha.

    Where alpha is auto, its factor is one of alpha_ratio, and 0 is none. Raises ConfigError on a wrong option.
    """
    rest = dict(changes)
    if "rate" in rest:
        rest["learning_rate"] = _product(base.learning_rate, rest.pop("rate"))
    if "alpha" in rest:
        factor = rest.pop("alpha")
        if isinstance(base.alpha, str) and factor:
            rest["alpha_ratio"] = _product(base.alpha_ratio, factor)
        else:
            rest["alpha"] = _product(base.alpha, factor) if factor else 0.0
    return read(Run, to_data(base) | rest, where)


def _product(value: Any, factor: Any) -> float:
    """Six digits of it, so that it comes out as one would write it.

    >>> _product(5e-5, 0.4)
    2e-05
    """
    return float(f"{value * factor:.6g}")


def run_name(base: Run, run: Run) -> str:
    """A name that says what differs from the method's own run, and the seed; alike for equal settings."""
    parts = [run.method]
    for field in dataclasses.fields(Run):
        value = getattr(run, field.name)
        if field.name != "seed" and value != getattr(base, field.name):
            parts += [field.name, f"{value:g}" if isinstance(value, int | float) else str(value)]
    return "-".join(["paper", *parts, "seed", str(run.seed)])


def with_runs(config: Config, plan: Plan) -> Config:
    """The config with the grid's runs among its own."""
    runs = config.extend.runs | plan.runs
    return dataclasses.replace(config, extend=dataclasses.replace(config.extend, runs=runs))
