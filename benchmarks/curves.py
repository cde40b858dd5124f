"""What runs learned and forgot over their tokens, of trainings that ended or not: a table and a figure.

python -m benchmarks.curves --add RESULTS --card "NVIDIA H100" --lines docs/benchmarks/smollm2-fr.jsonl
python -m benchmarks.curves --lines docs/benchmarks/smollm2-fr.jsonl --output docs/benchmarks/smollm2-fr

RESULTS is what `results.tar.gz` of benchmarks.gpu holds. A line is a run: bits per byte of some held-out rows of
each domain, with their sums by document. --output makes a page and two figures of the lines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.plan import STEP_TOKENS, read_plan
from pipeline.common.config import read, read_yaml
from pipeline.common.files import write_text
from pipeline.common.markdown import table_row
from pipeline.workflow.layout import BACKBONE, METRICS
from train.evaluation.intervals import estimate, paired
from train.paper.grid import Grid
from train.report.over_tokens import since
from train.report.words import is_noise, share, with_ends
from train.runs.record import read_metrics
from train.runs.results import Watched

# Has the paper's numbers.
GRID = Path(__file__).resolve().parents[1] / "configs/paper/grid.yaml"

Line = dict[str, Any]
# By run and tokens.
Curves = dict[str, dict[int, Watched]]


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", required=True, help="JSON lines, one of each run")
    parser.add_argument("--add", metavar="RESULTS", help="add the runs of this folder to the lines")
    parser.add_argument("--card", help="what they were trained on")
    parser.add_argument("--forgetting", default="en-brown", help="domain that measures forgetting")
    parser.add_argument("--learning", default="fr", help="domain that measures learning")
    parser.add_argument("--output", help="path of the page, without .md")
    arguments = parser.parse_args()
    if arguments.add:
        with Path(arguments.lines).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in collected(Path(arguments.add), arguments.card))
    if arguments.output:
        lines = [json.loads(text) for text in Path(arguments.lines).read_text("utf-8").splitlines()]
        write(lines, arguments.forgetting, arguments.learning, arguments.output)


def collected(results: Path, card: str | None) -> Iterator[Line]:
    """A line of each run that was measured, of one that was killed too."""
    plan = read_plan(results)
    for name, run in plan.extend.runs.items():
        folders = (results / f"runs/{name}{ending}" for ending in ("", ".checkpoints"))
        folder = next((folder for folder in folders if (folder / METRICS).exists()), None)
        if folder:
            tried = results / f"rates/{run.method}.json" if plan.tried.get(run.method) == name else None
            lines = [line for line in read_metrics(folder) if "evaluation" in line]
            yield {
                "run": name,
                "method": run.method,
                "card": card,
                "tried": json.loads(tried.read_text())["rates"] if tried else {},
                "curve": [{"tokens": line["step"] * STEP_TOKENS, **line["evaluation"]} for line in lines],
            }


def write(lines: list[Line], forgetting: str, learning: str, output: str) -> None:
    """The page, and of both domains a figure."""
    import vl_convert

    from train.report import charts

    figures = {
        name: charts.curves(points(lines, domain), "bpb", f"bits per byte of {domain}")
        for name, domain in {"forgetting": forgetting, "learning": learning}.items()
    }
    figures["both"] = both(lines, forgetting, learning)
    for name, chart in figures.items():
        picture = vl_convert.vegalite_to_png(charts.for_print(chart), scale=2)
        Path(f"{output}-{name}.png").write_bytes(picture)
    write_text(f"{output}.md", "\n".join(page(lines, forgetting, learning, Path(output).name)) + "\n")


def points(lines: list[Line], domain: str) -> list[dict[str, Any]]:
    return [
        {
            "model": line["run"],
            "method": line["method"],
            "step": at["tokens"] // STEP_TOKENS,
            "tokens": at["tokens"],
            "bpb": at[domain]["bpb"],
        }
        for line in lines
        for at in line["curve"]
    ]


def both(lines: list[Line], forgetting: str, learning: str) -> Any:
    """Where each run is after so many tokens: what it learned, over what it forgot; to the top left is better."""
    import altair as alt

    from train.report import charts

    old, new = (points(lines, domain) for domain in (forgetting, learning))
    start = old[0]["bpb"], new[0]["bpb"]
    rows = [a | {"old": a["bpb"] - start[0], "new": start[1] - b["bpb"]} for a, b in zip(old, new, strict=True)]
    colour, shape = charts.by_method(rows)
    titles = f"forgotten: {forgetting} is harder by, bits per byte", f"learned: {learning} is easier by"
    drawn = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("old:Q", title=titles[0], axis=alt.Axis(format="+.2f", tickCount=5)),
        y=alt.Y("new:Q", title=titles[1], axis=alt.Axis(format=".1f", tickCount=5)),
        color=colour,
    )
    lines_drawn = drawn.mark_line(strokeWidth=2).encode(order="tokens:Q")
    return (lines_drawn + drawn.mark_point(filled=True, size=60, opacity=1).encode(shape=shape)).properties(
        height=300
    )


def page(lines: list[Line], forgetting: str, learning: str, name: str) -> Iterator[str]:
    known = {domain: curves(lines, domain) for domain in lines[0]["curve"][0] if domain != "tokens"}
    tokens = sorted(set.intersection(*(set(own) for own in known[forgetting].values())))
    yield "# SmolLM2-135M learns French, over tokens\n"
    yield f"On {lines[0]['card']}, steps of {STEP_TOKENS:,} tokens, a tenth of them old."
    yield f"Measured on 64 held-out rows of each domain; all runs were measured up to {tokens[-1]:,} tokens.\n"
    yield "Bits per byte of another site after 2 million tokens, by learning rate; the best was taken:\n"
    yield "| run | tried |  |  |\n|---|---:|---:|---:|"
    for line in lines:
        yield table_row([line["run"], *(f"{rate}: {bpb:.4f}" for rate, bpb in line["tried"].items())])
    yield f"\n![Learned over forgotten, a mark each million tokens]({name}-both.png)\n"
    yield f"![Learning over tokens]({name}-learning.png)\n"
    yield f"![Forgetting over tokens]({name}-forgetting.png)\n"
    yield f"## After {tokens[-1]:,} tokens\n"
    yield "Changes in bits per byte since the backbone, with their 95% intervals over documents;"
    yield "neutral residues' share of another method's change, where that one is beyond the noise.\n"
    yield from last_table(known, tokens[-1])
    yield "\n## Beside the paper\n"
    yield "Shares of what finetuning learned and forgot; the paper's by its Table 2: a model of 1B weights,"
    yield "forgetting by text of another kind too (PubMed).\n"
    yield from paper_table({"learned": known[learning], "forgotten": known[forgetting]}, tokens[-1])
    yield "\n## All along\n"
    yield "Bits per byte.\n"
    columns = [(run, domain) for domain in (learning, forgetting) for run in known[domain]]
    yield table_row(["tokens", *map(", ".join, columns)])
    yield f"|---:|{'---:|' * len(columns)}"
    for at in tokens:
        yield table_row([f"{at:,}", *(f"{known[domain][run][at].bpb:.4f}" for run, domain in columns)])
    yield ""
    for run in known[forgetting]:
        yield f"- {', '.join(said(known, run, tokens[1:], forgetting, learning))}."


def last_table(known: dict[str, Curves], tokens: int) -> Iterator[str]:
    yield table_row(["run", *known, *(f"{domain}, share" for domain in known)])
    yield f"|---|{'---:|' * 2 * len(known)}"
    for run in next(iter(known.values())):
        changes, shares = [], []
        for own in known.values():
            theirs = change(own, run, tokens)
            changes.append(with_ends(estimate(theirs)))
            compared = run != "neutral" and not is_noise(estimate(theirs))
            shares.append(share(estimate(change(own, "neutral", tokens) / theirs)) if compared else "")
        yield table_row([run, *changes, *shares])


def paper_table(known: dict[str, Curves], tokens: int) -> Iterator[str]:
    """Of each method its shares of what finetuning learned and forgot, in our runs and in the paper (p = 0.1)."""
    table = read_yaml(Grid, GRID).targets["table2"]
    start = dict(zip(("forgotten", "learned"), table.backbone, strict=True))
    paper = {run: dict(zip(start, row.paper, strict=True)) for run, row in table.rows.items()}
    yield table_row(["run", *(f"{what}, {whose}" for what in known for whose in ("ours", "the paper's"))])
    yield "|---|---:|---:|---:|---:|"
    for run in [run for run in next(iter(known.values())) if run in paper and run != "finetune"]:
        cells = []
        for what, own in known.items():
            ours = estimate(change(own, run, tokens) / change(own, "finetune", tokens))
            theirs = (paper[run][what] - start[what]) / (paper["finetune"][what] - start[what])
            cells += [share(ours), f"{theirs:.0%}"]
        yield table_row([run, *cells])


def said(known: dict[str, Curves], run: str, tokens: list[int], forgetting: str, learning: str) -> Iterator[str]:
    """From how many tokens on a run forgets, and from how many neutral residues learn more than it."""
    after = since([(at, estimate(change(known[forgetting], run, at))) for at in tokens], 1)
    yield (
        f"{run} forgets {forgetting} from {after:,} tokens on" if after else f"{run} does not forget {forgetting}"
    )
    if run != "neutral":
        own = known[learning]
        less = [(at, estimate(change(own, "neutral", at) - change(own, run, at))) for at in tokens]
        passed = since(less, -1)
        told = f"from {passed:,} tokens on" if passed else "at no point"
        yield f"and neutral residues learn more {learning} than it {told}"


def curves(lines: list[Line], domain: str) -> Curves:
    return {
        line["run"]: {at["tokens"]: read(Watched, at[domain], domain) for at in line["curve"]} for line in lines
    }


def change(known: Curves, run: str, tokens: int) -> np.ndarray:
    """Of a run since the backbone, drawn again as for all other runs."""
    bpb = paired({BACKBONE: known[run][0], run: known[run][tokens]})
    return bpb[run] - bpb[BACKBONE]


if __name__ == "__main__":
    main()
