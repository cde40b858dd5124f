"""The lines of steps.jsonl as tables for people: `python -m benchmarks.gpu table --output PATH FILE…`.

What a step should take and reach stands beside what was measured, or beside "not yet measured".
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import FACTORS, TRIED_TOKENS
from benchmarks.gpu.program import MFU_TARGETS, TIMES_THE_PEER, before_real, real_steps
from benchmarks.gpu.steps import Step
from pipeline.common.files import write_text

# One line of a step is that of this job, wherever its files lay and however many tokens it had.
PLACES = ("folder", "work", "output", "tokens")
ASKED = "asked "
TRIES = "rates "  # begins the names of such steps of a real model, before the method
UNMEASURED = "not yet measured"
Line = dict[str, Any]
Speed = dict[str, tuple[str, str]]
# Of its numbers, those that a step of the trainer is judged by, and by which a contender was of old.
SPEED: Speed = {
    "MFU": ("mfu", ".1%"),
    "peak MiB": ("peak_mib", ",d"),
    "graphs": ("graphs", "d"),
    "s until warm": ("warm_up_s", ".0f"),
    "measuring": ("measuring_share", ".1%"),
    "checkpoints": ("checkpoint_share", ".1%"),
}
EARLIER: Speed = {"tokens/s": ("tokens_per_s", ",.0f")}
EARLIER |= {"with measuring steps": ("tokens_per_s_with_measured_steps", ",.0f")} | dict(list(SPEED.items())[:4])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu table", description=__doc__)
    parser.add_argument("files", nargs="+", help="steps.jsonl of one or several calls, the oldest first")
    parser.add_argument("--output", required=True, help="path without .md")
    arguments = parser.parse_args(argv)
    write(arguments.files, f"{arguments.output}.md")
    return 0


def write(files: Iterable[str | Path], output: str | Path) -> None:
    """The page of all lines of the files, of which a later one takes the place of an earlier one of its step."""
    lines: dict[str, Line] = {}
    card = ""
    for path in files:
        for text in Path(path).read_text("utf-8").splitlines():
            line = json.loads(text)
            if line["step"] == "machine":
                card = line.get("found", {}).get("card", card)
            if "skipped" not in line:
                lines[key(line["step"], line["job"])] = {"card": card} | line
    write_text(str(output), "\n".join(page(lines)) + "\n")


def key(name: str, job: dict[str, Any]) -> str:
    """What a line and a step of the program have in common: the name, and the job but for its places."""
    return json.dumps([name, {what: job[what] for what in sorted(job) if what not in PLACES}])


def page(lines: dict[str, Line]) -> Iterator[str]:
    """The Markdown, line by line, of lines by key()."""
    by_name = {line["step"]: line for line in lines.values()}
    found = {name: line["found"] for name, line in by_name.items() if "found" in line}
    toy = any(line["job"].get("toy") for line in lines.values())
    program = before_real("cuda")
    tokens = max((line["job"].get("tokens", 0) for line in lines.values()), default=0) or 20e6
    names = [name.removeprefix("real ") for name in by_name if name.startswith("real ")]
    tried = {
        name.removeprefix(TRIES): by_name[f"real {name}"]["job"]["name"]
        for name in names
        if name.startswith(TRIES)
    }
    runs = [name for name in names if name not in ("source", "settle") and not name.startswith(TRIES)]
    asked = {name.removeprefix(ASKED): found[name] for name in found if name.startswith(ASKED)}
    settles = "settle" in names or not names
    asks = any(name.startswith(ASKED) for name in by_name)
    program += real_steps("cuda", runs or ["each run"], settles, tried, asks, "", "", tokens)
    yield "# A GPU"
    yield from machine(found)
    yield "\n## The program\n"
    yield f"Seconds of each step, by estimate and as measured; of a real model for {tokens:,.0f} tokens a run."
    if toy:
        yield "\nThe lines are of a rehearsal: nothing here is a measurement of a GPU."
    yield ""
    yield row_of("step", ["estimate", "measured", "or why not"])
    yield "|---|---:|---:|---|"
    for step in program:
        line = by_name.get(step.name, {}) if toy else lines.get(key(step.name, step.job), {})
        seconds = f"{line['seconds']:.0f}" if "seconds" in line else UNMEASURED
        yield row_of(step.name, [f"{step.estimate_s:.0f}", seconds, one_line(line.get("failed", ""))])
    if "checks" in found:
        yield "\n## Is it right?\n"
        yield from table(
            [{"check": name} | numbers for name, numbers in found["checks"]["checks"].items()],
            {
                "check": str,
                "ok": str,
                "numbers": lambda row: short(dict(list(row.items())[1:])),
            },
        )
    answers = "Multiple choice and continuations"
    for name, title in (("tests", "The tests"), ("tasks", answers), ("tasks, real", f"{answers}: the real model")):
        if name in found:
            yield f"\n## {title}\n"
            yield from table(
                [{"what": what, "found": value} for what, value in found[name].items()],
                {"what": str, "found": short},
            )
    for name, title in (("loss", "The loss and its gradients"), ("products", "The products of a block")):
        if name in found:
            yield f"\n## {title}\n"
            rows = [
                {"what": what, **numbers} for what, numbers in found[name].items() if isinstance(numbers, dict)
            ]
            yield from table(rows, {"what": str, "ms": number(".1f"), "MiB": number(",")})
    yield from speeds([step for step in program if step.name.startswith("speed ")], lines, toy)
    real = {name.removeprefix("real "): line for name, line in by_name.items() if name.startswith("real ")}
    if real:
        yield "\n## A real model\n"
        tries = {name: line for name, line in real.items() if name.startswith(TRIES)}
        yield from rates_table({name.removeprefix(TRIES): line for name, line in tries.items()})
        real = {name: line for name, line in real.items() if name not in tries and name != "source"}
        yield from real_table(real)
    if asked:
        yield "\n## Multiple choice, by a real model and its runs\n"
        yield "Accuracies in percent, each by its task's normalisation, and the means of a language's tasks.\n"
        yield from asked_table(asked)


def machine(found: dict[str, Any]) -> Iterator[str]:
    if "machine" not in found or "card" not in found["machine"]:
        return
    machine, ms = found["machine"], number(".2f")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"\n{machine['card']}, {machine['gib']:.0f} GiB; Python {machine['python']}, {versions}."
    yield (
        f"A product of two bf16 matrices of 8192 x 8192: {machine['product_tflops']:.0f} TFLOP/s; "
        f"copying: {machine['copy_gb_per_s']:,.0f} GB/s, bytes read and written; attention of 16 rows of "
        f"2,048, there and back: flash {ms(machine['flash_attention_ms'])} ms, "
        f"cuDNN {ms(machine['cudnn_attention_ms'])} ms."
    )


# Speed ----------------------------------------------------------------------------------------------


def speeds(steps: list[Step], lines: dict[str, Line], toy: bool) -> Iterator[str]:
    """The program's steps with their targets, then what was measured under other names or options."""
    yield "\n## Speed\n"
    shares = " and ".join(f"{share:.0%} MFU at {size}" for size, share in MFU_TARGETS.items())
    yield f"Targets of compiled steps: {shares}; {TIMES_THE_PEER} times the peer's tokens/s, in less memory."
    yield "Medians of a step; beside them what measuring steps and checkpoints take of a training's time.\n"
    ratios = ["times the peer", "of its memory"]
    yield row_of("step", ["card", "target", "tokens/s", *ratios, *SPEED, "or why not"])
    yield f"|---|---|{'---:|' * (len(SPEED) + 4)}---|"
    of_step = {step.name: lines.get(key(step.name, step.job)) for step in steps}
    if toy:
        of_step = {line["step"]: line for line in lines.values()}
    for step in steps:
        line = of_step.get(step.name) or {}
        found, job = line.get("found", {}), step.job
        peer = next((s for s in steps if is_peer(s.job, job)), None)
        theirs = (of_step.get(peer.name) or {}).get("found") if peer else None
        cells = [line.get("card", ""), cell(target(job), ",.0f")]
        cells.append(cell(found.get("tokens_per_s"), ",.0f") if line else UNMEASURED)
        cells += [f"{found[k] / theirs[k]:.2f}" if found and theirs else "" for k in ("tokens_per_s", "peak_mib")]
        cells += [cell(found.get(name), form) for name, form in SPEED.values()]
        yield row_of(step.name.removeprefix("speed "), [*cells, one_line(line.get("failed", ""))])
    known = {key(step.name, step.job) for step in steps}
    earlier = [] if toy else [
        line for at, line in lines.items() if line["step"].startswith("speed ") and at not in known
    ]  # fmt: skip
    if earlier:
        yield "\nMeasured before, by other steps than today's:\n"
        yield row_of("step", ["card", "attention", *EARLIER, "times the peer", "and with those", "or why not"])
        yield f"|---|---|---|{'---:|' * (len(EARLIER) + 2)}---|"
        for line in earlier:
            found, cells = line.get("found", {}), [line["card"], attention(line["job"])]
            cells += [cell(found.get(name), form) for name, form in EARLIER.values()]
            theirs = next((one.get("found", {}) for one in earlier if is_peer(one["job"], line["job"])), {})
            for name in ("tokens_per_s", "tokens_per_s_with_measured_steps"):
                cells.append(f"{found[name] / theirs['tokens_per_s']:.2f}" if theirs and name in found else "")
            yield row_of(line["step"].removeprefix("speed "), [*cells, one_line(line.get("failed", ""))])
    for line in [*filter(None, (of_step.get(step.name) for step in steps)), *earlier]:
        if profile := line.get("found", {}).get("profile"):
            yield f"\n{line['step'].removeprefix('speed ')} (attention: {attention(line['job'])}): the GPU"
            yield f"computes {profile['gpu_ms_a_step']:.0f} ms a step in {profile['kernels_a_step']:,.0f} kernels."
            yield "The longest:\n"
            forms = {"kernel": "`{}`".format, "calls": "{:.0f}".format, "ms": "{:.1f}".format}
            yield from table(profile["top"][:6], forms)


def is_peer(job: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether the job is that of the peer of `ours`: all that both are given is the same."""
    alike = ("sizes", "rows", "row_tokens", "compile")
    return job["method"] == "peer" != ours["method"] and all(job[what] == ours[what] for what in alike)


def target(job: dict[str, Any]) -> float | None:
    """Tokens/s of an H100 or H200 at the MFU that is aimed at; None for the peer and for eager steps."""
    if job["method"] == "peer" or not job["compile"]:
        return None
    from models.cost import H100_FLOPS

    return MFU_TARGETS[job["sizes"]] * H100_FLOPS / flops(job["sizes"], job["method"], job["row_tokens"])


@functools.cache
def flops(sizes: str, method: str, row_tokens: int) -> int:
    from benchmarks.gpu.toys import sketch
    from models.cost import flops_per_token

    return flops_per_token(sketch(sizes, method, row_tokens)[0], row_tokens)


def attention(job: dict[str, Any]) -> str:
    """Of the kernels: the first jobs said only whether it was cuDNN's, and their peers left it to torch."""
    if "attention" in job or job["method"] == "peer":
        return str(job.get("attention", "torch's"))
    return "cuDNN" if job.get("cudnn") else "flash"


# A real model -----------------------------------------------------------------------------------------


def rates_table(tried: dict[str, Line]) -> Iterator[str]:
    """What each method's tries of learning rates came to, by method."""
    found = {name: line["found"] for name, line in tried.items() if "found" in line}
    if found:
        domain = next(iter(found.values()))["domain"]
        yield f"Bits per byte of {domain} after {TRIED_TOKENS:,.0f} tokens, by learning rate:\n"
        yield row_of("method", [f"at {factor:g} of its rate" for factor in FACTORS])
        yield f"|---|{'---:|' * len(FACTORS)}"
        for name, one in found.items():
            yield row_of(name, [f"{rate}: {bpb:.4f}" for rate, bpb in one["rates"].items()])
        yield ""


def real_table(real: dict[str, Line]) -> Iterator[str]:
    """Bits per byte of each model on each held-out set, with KL and agreement against the settled backbone."""
    settled = real.get("settle", {}).get("found", {})
    found = [line["found"] for line in real.values() if "found" in line]
    # A run names the measures of what it began from too.
    began = next((one["backbone"] for one in found if "backbone" in one), {})
    plain = {"as it comes": settled.get("before", {}), "settled": settled.get("after", {})}
    plain = {name: one["bpb"] for name, one in (plain if settled else {"backbone": began}).items() if "bpb" in one}
    sets = list(next(iter(plain.values()), {}))
    yield row_of("model", [*sets, *(f"KL {name}" for name in sets), "rate", "tokens", "tokens/s", "card"])
    yield f"|---|{'---:|' * (2 * len(sets) + 3)}---|"
    for name, bpb in plain.items():
        yield row_of(name, [f"{bpb[one]:.4f}" for one in sets] + [""] * (len(sets) + 4))
    for name, step in real.items():
        if "failed" in step:
            yield row_of(name, [one_line(step["failed"])] + [""] * (2 * len(sets) + 2) + [step.get("card", "")])
        elif "bpb" in step["found"]:
            found, training = step["found"], step["found"]["training"]
            cells = [f"{found['bpb'][one]:.4f}" for one in sets] + [f"{found['kl'][one]:.4f}" for one in sets]
            speed = "beside others" if step.get("beside") else f"{training['tokens_per_s']:,}"
            cells += [f"{training['learning_rate']:g}", f"{training['tokens']:,}", speed, step.get("card", "")]
            yield row_of(name, cells)
    for name, step in real.items():
        for text in step.get("found", {}).get("texts", []):
            yield f"\n{name}: *{text['prompt']}* {' '.join(text['continuation'].split())}"


def asked_table(asked: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Accuracies of each model and their standard errors."""
    columns = list(dict.fromkeys(column for one in asked.values() for column in one))
    yield row_of("model", columns)
    yield f"|---|{'---:|' * len(columns)}"
    for name, one in asked.items():
        yield row_of(name, [" ±".join(f"{100 * x:.1f}" for x in one.get(column) or ()) for column in columns])


# Cells ------------------------------------------------------------------------------------------------


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


def number(form: str) -> Any:
    """A form that leaves alone what is no number."""
    return lambda value: format(value, form) if isinstance(value, int | float) else str(value)


def one_line(text: str) -> str:
    """Of a failure, as much as a cell may hold."""
    return " ".join(text.split())[:200].replace("|", "/")
