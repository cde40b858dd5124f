"""The steps by value: is it right, how fast is it, what comes out. Targets of the steps that measure speed."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.plan import FACTORS, SETTLE_TOKENS, TRIED_TOKENS
from benchmarks.gpu.steps import Step
from benchmarks.gpu.toys import TOY
from pipeline.workflow.layout import BACKBONE

# rows x row_tokens is a micro-batch, and here a step. `attention`: the trainer leaves the choice to torch, which
# takes cuDNN's on these cards.
M135: dict[str, Any] = {"sizes": "135M", "rows": 16, "row_tokens": 2048, "compile": True, "attention": "torch's"}
B1: dict[str, Any] = M135 | {"sizes": "1B"}
T4096: dict[str, Any] = {"rows": 8, "row_tokens": 4096}
SPEEDS: dict[str, dict[str, Any]] = {
    "135M neutral": M135 | {"method": "neutral"},
    "135M peer": M135 | {"method": "peer"},
    "1B neutral": B1 | {"method": "neutral"},
    "1B peer": B1 | {"method": "peer"},
    "135M adapter": M135 | {"method": "adapter"},
    "135M finetune": M135 | {"method": "finetune"},
    "135M lora": M135 | {"method": "lora"},
    "135M neutral, flash attention": M135 | {"method": "neutral", "attention": "flash"},
    "135M neutral, masked documents": M135 | {"method": "neutral", "mask_documents": True},
    "135M neutral, T = 4096": M135 | T4096 | {"method": "neutral"},
    "1B neutral, T = 4096": B1 | T4096 | {"method": "neutral"},
    "135M neutral, eager": M135 | {"method": "neutral", "compile": False},
    "135M peer, eager": M135 | {"method": "peer", "compile": False},
}
# Seconds. The peer compiles the whole model and not a layer.
SPEED_ESTIMATES = {("135M", "ours"): 30, ("135M", "peer"): 105, ("1B", "ours"): 45, ("1B", "peer"): 130}
# Of compiled steps: MFU by models/cost.py; the peer's tokens/s times this; and its memory.
MFU_TARGETS, TIMES_THE_PEER = {"135M": 0.35, "1B": 0.45}, 1.5
REAL_TOKENS_PER_S, REHEARSED_TOKENS, REHEARSED_CAP_S = 250e3, 2560, 240


def before_real(device: str) -> list[Step]:
    """All steps that need nothing but the code."""
    job: dict[str, Any] = {"device": device, "toy": False}
    steps = [
        Step("machine", "machine:machine", 5, 60, job),
        Step("checks", "checks:check_all", 90, 240, job),
        Step("loss", "loss:loss", 20, 60, job),
        Step("products", "products:products", 45, 120, job),
    ]
    for name, case in SPEEDS.items():
        kind = "peer" if case["method"] == "peer" else "ours"
        estimate = SPEED_ESTIMATES[case["sizes"], kind] if case["compile"] else 25
        steps.append(Step(f"speed {name}", f"speed:{kind}", estimate, 2 * estimate + 60, case | job))
    steps.append(Step("tests", "suite:suite", 150, 300, job))
    steps.append(Step("tasks", "tasks:tasks", 40, 120, job))
    return steps


def real_steps(
    device: str,
    runs: list[str],
    settles: bool,
    tried: dict[str, str],
    asks: bool,
    folder: str,
    work: str,
    tokens: float,
) -> list[Step]:
    """A real model, unpacked in `folder`: settled first or not, rates tried or not, its runs, questions or not.

    tried: of the methods whose learning rates are tried, the run.
    """
    job = {"device": device, "toy": False, "folder": folder, "work": work, "tokens": tokens}
    steps = [Step("real source", "real:source", 30, 120, job)]
    if settles:
        estimate = 30 + min(tokens, SETTLE_TOKENS) / REAL_TOKENS_PER_S
        steps.append(Step("real settle", "real:settle", estimate, 240, job, beside="before"))
    tries = 20 + len(FACTORS) * (5 + TRIED_TOKENS / REAL_TOKENS_PER_S)
    for method, name in tried.items():
        steps.append(Step(f"real rates {method}", "real:rates", tries, 120, job | {"name": name}, beside="before"))
    estimate = 30 + tokens / REAL_TOKENS_PER_S
    for name in runs:
        run = job | {"name": name}
        steps.append(Step(f"real {name}", "real:extend_and_evaluate", estimate, 2 * estimate, run, beside="runs"))
    for name in (BACKBONE, *runs) if asks else ():
        steps.append(Step(f"asked {name}", "real:ask", 45, 150, job | {"name": name}, beside="asked"))
    asked = [Step("tasks, real", "tasks:real_tasks", 40, 120, job | {"name": name}) for name in runs[:1]]
    return steps + asked


def rehearsed(step: Step) -> Step:
    """The step at toy size on the CPU; of those that measure speed the first compiles."""
    job = step.job | {"toy": True}
    if "compile" in job:
        job["compile"] = step.name == "speed 135M neutral"
    if "sizes" in job:
        job |= TOY
    return Step(step.name, step.run, 0, REHEARSED_CAP_S, job, step.beside)
