"""The paper's tables and figures as a grid: rows that change a method's own run.

The grid is data (configs/paper/grid.yaml), and this module what is in it. train/paper/plan.py says which runs a
config needs for it; train/paper/tables.py writes the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.common.config import bad_name, option
from pipeline.workflow.layout import BACKBONE
from train.runs.options import METHODS


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
        # Rows of figure 3 may be compared with the backbone's own gating matrices.
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

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.targets:
            if problem := bad_name(name):
                yield f"targets.{name}", problem
