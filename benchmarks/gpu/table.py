"""The lines of steps.jsonl as tables for people: `python -m benchmarks.gpu table --output PATH FILE…`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.files import write_text

# Of its numbers, those that a step of the trainer is judged by.
SPEED = {
    "tokens/s": ("tokens_per_s", ",.0f"),
    "MFU": ("mfu", ".1%"),
    "peak MiB": ("peak_mib", ",d"),
    "graphs": ("graphs", "d"),
    "seconds until warm": ("warm_up_s", ".0f"),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu table", description=__doc__)
    parser.add_argument("files", nargs="+", help="steps.jsonl of one or several calls")
    parser.add_argument("--output", required=True, help="path without .md")
    arguments = parser.parse_args(argv)
    lines = [json.loads(line) for path in arguments.files for line in Path(path).read_text("utf-8").splitlines()]
    steps = {line["step"]: line for line in lines if "skipped" not in line}
    write_text(f"{arguments.output}.md", "\n".join(page(steps)) + "\n")
    return 0


def page(steps: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The Markdown, line by line."""
    yield "# A GPU"
    if "machine" in steps:
        machine = steps["machine"]["found"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        yield f"\n{machine['card']}, {machine['gib']:.0f} GiB; Python {machine['python']}, {versions}."
        yield (
            f"A product of two bf16 matrices of 8192 x 8192: {machine['product_tflops']:.0f} TFLOP/s; "
            f"copying: {machine['copy_gb_per_s']:,.0f} GB/s, bytes read and written; attention of 16 rows of "
            f"2,048, there and back: flash {machine['flash_attention_ms']:.2f} ms, "
            f"cuDNN {machine['cudnn_attention_ms']:.2f} ms."
        )
    if "checks" in steps:
        yield "\n## Is it right?\n"
        yield from table(
            [{"check": name} | numbers for name, numbers in steps["checks"]["found"]["checks"].items()],
            {
                "check": str,
                "ok": str,
                "numbers": lambda row: short(dict(list(row.items())[1:])),
            },
        )
    if "loss" in steps:
        yield "\n## The loss and its gradients\n"
        rows = [{"what": name, **numbers} for name, numbers in steps["loss"]["found"].items()]
        yield from table(rows, {"what": str, "ms": "{:.1f}".format, "MiB": "{:,}".format})
    speeds = {name: step for name, step in steps.items() if name.startswith("speed ")}
    if speeds:
        yield "\n## Speed\n"
        yield f"| step | {' | '.join(SPEED)} | or why not |"
        yield f"|---|{'---:|' * len(SPEED)}---|"
        for name, step in speeds.items():
            cells = [cell(step.get("found", {}).get(key), form) for key, form in SPEED.values()]
            yield f"| {name.removeprefix('speed ')} | {' | '.join(cells)} | {step.get('failed', '')} |"
        for name, step in speeds.items():
            if profile := step.get("found", {}).get("profile"):
                yield f"\n{name.removeprefix('speed ')}: the GPU computes {profile['gpu_ms_a_step']:.0f} ms a step"
                yield f"in {profile['kernels_a_step']:,.0f} kernels. The longest:\n"
                yield from table(profile["top"][:6], {"kernel": "`{}`".format, "calls": "{:.0f}".format,
                                                      "ms": "{:.1f}".format})  # fmt: skip
    real = {name.removeprefix("real "): step for name, step in steps.items() if name.startswith("real ")}
    if real:
        yield "\n## A real model\n"
        yield from real_table(real)


def real_table(real: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Bits per byte of each model on each held-out set, with KL and agreement against the settled backbone."""
    settled = real["settle"]["found"]
    sets = list(settled["after"]["bpb"])
    yield row_of("model", [*sets, *(f"KL {name}" for name in sets), "rate", "tokens", "tokens/s"])
    yield f"|---|{'---:|' * (2 * len(sets) + 3)}"
    for name, found in (("as it comes", settled["before"]), ("settled", settled["after"])):
        yield row_of(name, [f"{found['bpb'][one]:.4f}" for one in sets] + [""] * (len(sets) + 3))
    for name, step in real.items():
        if name == "settle":
            continue
        if "failed" in step:
            yield row_of(name, [step["failed"]] + [""] * (2 * len(sets) + 2))
            continue
        found, training = step["found"], step["found"]["training"]
        cells = [f"{found['bpb'][one]:.4f}" for one in sets] + [f"{found['kl'][one]:.4f}" for one in sets]
        cells += [f"{training['learning_rate']:g}", f"{training['tokens']:,}", f"{training['tokens_per_s']:,}"]
        yield row_of(name, cells)
    for name, step in real.items():
        for text in step.get("found", {}).get("texts", []):
            yield f"\n{name}: *{text['prompt']}* {' '.join(text['continuation'].split())}"


def row_of(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def table(rows: list[dict[str, Any]], columns: dict[str, Any]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = [form(row if name == "numbers" else row.get(name, "")) for name, form in columns.items()]
        yield f"| {' | '.join(cells)} |"


def short(value: Any) -> str:
    """Numbers of a check, few enough digits to be read."""
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, dict):
        return "; ".join(f"{key} {short(one)}" for key, one in value.items() if key != "ok")
    return ", ".join(map(short, value)) if isinstance(value, list) else str(value)


def cell(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)
