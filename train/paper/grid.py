"""The paper's tables and figures as a grid: rows that change a method's own run, and so the runs to train.

The grid is data (configs/paper/grid.yaml); this module reads it and says which runs a config needs for it.
It imports nothing heavy, since Snakemake reads it at every start. train/paper/tables.py writes the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import ConfigError, option, read, read_yaml, to_data
from train.options import METHODS, Config, Run, eval_domains

# Rows of figure 3 may be compared with the backbone's own gating matrices, and tables show its measures.
BACKBONE = "backbone"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run of a method with some options changed, and the paper's numbers for it."""

    label: str = option(doc="as the table shows it")
    method: str = option(doc="whose run is changed", choices=METHODS)
    set: dict[str, float | str] = option({}, "options that differ; `rate` and `alpha` are factors")
    paper: list[float] = option([], "the paper's numbers, one for each of the target's columns")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper that our numbers uphold or not; rows are named by their keys."""

    text: str = option(doc="the statement")
    forgetting: bool = option(False, "it is about forgetting")
    learning: bool = option(False, "it is about learning")
    lower: list[list[str]] = option([], "pairs of rows: the first has the lower mean")
    optimum: str | None = option(None, "the row with the lowest sum of forgetting and learning")
    steadier: list[list[str]] = option([], "groups of rows: each measure varies least over the first")
    every: str | None = option(None, "method whose worst row is better than the best one of any other method")
    flatter: list[list[str]] = option([], "pairs of rows: the first has the flatter spectrum")

    def problems(self) -> Iterator[tuple[str, str]]:
        if sum(map(bool, (self.lower, self.optimum, self.steadier, self.every, self.flatter))) != 1:
            yield "text", "give exactly one of lower, optimum, steadier, every and flatter"
        if (self.lower or self.steadier or self.every) and not (self.forgetting or self.learning):
            yield "text", "say what it is about: forgetting: true, learning: true, or both"
        if any(len(pair) != 2 for pair in (*self.lower, *self.flatter)):
            yield "text", "lower and flatter are lists of pairs of rows"

    def names(self) -> set[str]:
        """The rows it names."""
        one = {self.optimum} if self.optimum else set()
        return one | {name for group in (*self.lower, *self.steadier, *self.flatter) for name in group}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A table or a figure."""

    title: str = option(doc="what it shows")
    note: str = option("", "what a reader must know beside it")
    new: str | None = option(None, "the new domain of its runs; null: extend.new")
    columns: list[str] = option([], "names of the paper's numbers")
    backbone: list[float] = option([], "the paper's numbers of the backbone, one for each column")
    joined: bool = option(True, "whether the plot joins the rows of a method, as one quantity changes along them")
    spectrum: bool = option(False, "whether it shows singular values, not bits per byte")
    rows: dict[str, Row] = option(doc="its rows by name")
    claims: list[Claim] = option([], "what the paper says of it")

    def problems(self) -> Iterator[tuple[str, str]]:
        rows = {f"rows.{name}.paper": row.paper for name, row in self.rows.items()}
        for key, numbers in ({"backbone": self.backbone} | rows).items():
            if numbers and len(numbers) != len(self.columns):
                yield key, f"{len(numbers)} numbers for {len(self.columns)} columns {self.columns}"
        known = {*self.rows, BACKBONE} if self.spectrum else set(self.rows)
        for i, claim in enumerate(self.claims):
            for name in sorted(claim.names() - known):
                yield f"claims[{i}]", f"no row {name!r}; rows has {', '.join(self.rows)}"
            if claim.every and claim.every not in {row.method for row in self.rows.values()}:
                yield f"claims[{i}].every", f"no row of method {claim.every!r}"
            if bool(claim.flatter) != self.spectrum:
                yield f"claims[{i}].flatter", "is for targets with a spectrum, and they have only such claims"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every table and figure, by its name: what stands behind `paper/` in `snakemake paper/table2`."""

    targets: dict[str, Target] = option(doc="tables and figures by name")


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
                found = next(known, None) or run_name(base, run)
                names[name][key].append(found)
                if found not in config.extend.runs:
                    runs[found] = run
    return Plan(grid, names, runs, missing)


def method_runs(runs: dict[str, Run]) -> dict[str, Run]:
    """A run of each method to start from: the one of the method's name, or its first one on the backbone."""
    found = {name: run for name, run in runs.items() if name == run.method and run.base is None}
    for run in runs.values():
        if run.base is None:
            found.setdefault(run.method, run)
    return found


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
    """Six digits of it, so that 5e-5 times 0.4 is 2e-5."""
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
