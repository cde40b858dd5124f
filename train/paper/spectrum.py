"""The paper's Figure 3: singular values of the gating matrices, over the largest, layer by layer."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

import torch
from safetensors import safe_open

from pipeline.common.config import read_yaml
from pipeline.common.files import write_text
from pipeline.common.markdown import table_row
from pipeline.workflow.layout import BACKBONE
from train.paper import plots
from train.paper.claims import verdicts
from train.paper.grid import Grid
from train.paper.tables import by_row, csv_lines, heading

# The gating matrix of a block in a run's weights, and of a gated FFN in the backbone's.
BLOCKS = re.compile(r"\.(\d+)\.mlp\.block\.gate_proj\.weight$")
FFNS = re.compile(r"\.(\d+)\.mlp\.gate_proj\.weight$")

Spectra = dict[int, list[float]]


def write_spectrum(grid: str, target: str, runs: list[str], backbone: str, output: str) -> None:
    """Write `output`.md, .csv, .svg and .png of the spectra of a target's rows and of the backbone.

    runs are the folders of the rows, row after row and for each row one a seed.
    """
    chosen = read_yaml(Grid, grid).targets[target]
    grouped = by_row(chosen, runs)
    spectra = {key: [gate_spectra(folder, BLOCKS) for folder in folders] for key, folders in grouped.items()}
    labels = {key: row.label for key, row in chosen.rows.items()}
    methods = {key: row.method for key, row in chosen.rows.items()}
    own, claims = gate_spectra(backbone, FFNS), chosen.claims
    if own:
        spectra, labels = (
            {BACKBONE: [own] * len(next(iter(spectra.values())))} | spectra,
            labels | {BACKBONE: BACKBONE},
        )
    else:
        claims = [claim for claim in claims if BACKBONE not in claim.names()]
    values = {key: {"flatness": [flatness(spectrum) for spectrum in seeds]} for key, seeds in spectra.items()}
    text = heading(chosen, target, len(next(iter(grouped.values()))))
    text += "" if own else "The backbone has no gating matrices of its own (`mlp.gate_proj`).\n\n"
    text += markdown(spectra, labels) + "\n" + verdicts(claims, values, {})
    points = [
        {"row": key, "label": labels[key], "method": methods.get(key, BACKBONE), "layer": layer, "rank": rank}
        | {"share": rank / (len(curve) - 1 or 1), "value": value}
        for key, seeds in spectra.items()
        for layer in seeds[0]
        for curve in [[fmean(column) for column in zip(*(spectrum[layer] for spectrum in seeds), strict=True)]]
        for rank, value in enumerate(curve)
    ]
    write_text(f"{output}.md", text)
    write_text(f"{output}.csv", csv_lines(points))
    plots.write_chart(plots.spectra(points), output)


def gate_spectra(folder: str, name: re.Pattern[str]) -> Spectra:
    """By layer, the singular values of the matrices of that name in a folder's safetensors."""
    spectra: Spectra = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                if match := name.search(key):
                    spectra[int(match[1])] = singular_values(file.get_tensor(key))
    return dict(sorted(spectra.items()))


def singular_values(weight_MD: torch.Tensor) -> list[float]:
    """The singular values, greatest first, over the greatest; all 0 of a matrix of zeros."""
    values: list[float] = torch.linalg.svdvals(weight_MD.double()).tolist()
    return [value / (values[0] or 1.0) for value in values]


def flatness(spectra: Spectra) -> float:
    """The mean over layers of the mean singular value over the greatest: 1 where all are equal."""
    return fmean(fmean(values) for values in spectra.values())


def markdown(spectra: dict[str, list[Spectra]], labels: dict[str, str]) -> str:
    """The mean value over the greatest, a line a row and a column a layer, means over the seeds."""
    layers = list(next(iter(spectra.values()))[0])
    lines = [
        "Mean singular value over the greatest: the higher, the flatter.\n",
        "| | all layers | " + " | ".join(f"layer {layer}" for layer in layers) + " |",
        "|---|" + "---:|" * (len(layers) + 1),
    ]
    for key, seeds in spectra.items():
        means = [fmean(flatness(spectrum) for spectrum in seeds)]
        means += [fmean(fmean(spectrum[layer]) for spectrum in seeds) for layer in layers]
        lines.append(table_row([labels[key], *(f"{mean:.3f}" for mean in means)]))
    return "\n".join(lines) + "\n"
