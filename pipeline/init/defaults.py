"""What suits a backbone, a text and a machine, and what it will cost, by what was measured (docs/findings)."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass

from pipeline.crawl.catalogue import SOURCES
from pipeline.init.looks import Machine, Model

# Rates times the backbone's width: docs/guide.md, Rates and alpha.
RATE = {"neutral": 2.3, "lora": 1.15, "adapter": 1.15, "finetune": 0.23, "settle": 0.058}
NARROW, NARROW_RATE = 256, 1.3  # at widths of 64 and 128 neutral residues take this: docs/findings/results.md
ASSUMED_WIDTH = 2048  # of a backbone that is not known: a low rate learns less, a high one breaks
NATIVE = ("llama", "mistral", "qwen2", "qwen3")  # backbones whose sigmoid blocks servers know: docs/guide.md
PASSES = 4  # over the new text; Muennighoff et al. 2023: up to 4 are worth nearly as much as new text

# Measured on SmolLM2-135M (docs/findings/results.md): on two cores with AVX512-BF16, and on one H100.
WEIGHTS = 134.5e6
BYTES_A_TOKEN = 3.0  # French
CPU_RATES = {"neutral": 378, "adapter": 375, "lora": 376, "finetune": 273, "settle": 273}  # tokens/s
CPU_READS = 683  # tokens/s
PASSES_TO_MEASURE = {"source": 5.2, "backbone": 1.9, "run": 6.3}  # over 32 rows: speed and texts too
CPU_START = 30  # seconds of a job that are not in these
CPU_CORPUS = 150
SLOW = 3  # times as long in fp32, on cores without AVX512-BF16: the demo's runs
GPU_RATE, GPU_START, GPU_CORPUS = 290_000, 60, 900
PROCESS_GB, MEMORY_GB = 0.8, {"settle": 5.0, "neutral": 3.4}  # a process, and what it has of such a backbone
# Bytes on the disk: of text in all its stages over its own; a weight in each folder.
CORPUS_BYTES = 2.5
WEIGHT_BYTES = {"source": 2.0, "backbone": 2.4, "finetune": 3.8, "added": 0.8}
PACKAGES_BYTES = 0.3e9
LEAST_STEPS, MOST_THREADS = 25, 16
LEAST_BATCH, SOME_STEPS = (
    8,
    150,
)  # little text is read in smaller steps, so that there are as many as rates are for
COMPARED_SECONDS = 45 * 60  # on a CPU, a second method is left out where it would take longer than that


@dataclass(frozen=True)
class Plan:
    """Sizes of the trainings. every: steps between evaluations; measured: rows of a domain that is measured."""

    row_tokens: int
    batch_rows: int
    micro_batch_rows: int
    steps: int
    settle_steps: int
    every: int
    measured: int
    threads: int
    methods: tuple[str, ...]

    def tokens(self, training: str) -> int:
        steps = self.settle_steps if training == "settle" else self.steps
        return steps * self.batch_rows * self.row_tokens


def over_width(model: Model, method: str) -> float:
    """What a rate is over the backbone's width."""
    narrow = method == "neutral" and model.width is not None and model.width <= NARROW
    return NARROW_RATE if narrow else RATE[method]


def rate(model: Model, method: str) -> str:
    """A learning rate in two digits, as one writes it.

    >>> rate(Model("m", width=576), "neutral"), rate(Model("m", width=960), "neutral")
    ('4e-3', '2.4e-3')
    """
    digits, exponent = f"{over_width(model, method) / (model.width or ASSUMED_WIDTH):.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def choose_plan(model: Model, machine: Machine, tokens: int | None) -> Plan:
    """tokens: of the new text, about; None: unknown, and taken for enough."""
    size = model.weights or WEIGHTS
    rows, batch, most = (1024, 32, 600) if machine.gpu else (256, 8, 75)
    if not machine.gpu and size < WEIGHTS:  # what is faster may read more
        most = round(most * min(8, WEIGHTS / size))
    rows = min(rows, model.positions or rows)
    while batch > LEAST_BATCH and tokens is not None and PASSES * tokens < SOME_STEPS * batch * rows:
        batch //= 2
    enough = most if tokens is None else max(LEAST_STEPS, PASSES * tokens // (batch * rows))
    plan = Plan(
        row_tokens=rows,
        batch_rows=batch,
        micro_batch_rows=batch,
        steps=min(most, enough),
        settle_steps=50 if model.settle else 0,
        every=25,
        measured=32,
        threads=min(machine.cores, MOST_THREADS),
        methods=("neutral", "lora"),
    )
    if not machine.gpu:
        seconds = sum(seconds for _, _, seconds in times(plan, model, machine))
        return plan if seconds <= COMPARED_SECONDS else dataclasses.replace(plan, methods=("neutral",))
    # Weights, gradients and AdamW of all weights are 16 bytes each.
    whole = ("finetune", *(("control",) if model.settle else ())) if 16 * size < 0.7 * machine.gpu_bytes else ()
    return dataclasses.replace(
        plan,
        micro_batch_rows=4 if size < 5e8 else 1,
        settle_steps=150 if model.settle else 0,
        every=min(50, plan.steps),
        measured=300,
        threads=2,
        methods=("neutral", "adapter", "lora", *whole),
    )


def times(plan: Plan, model: Model, machine: Machine) -> list[tuple[str, int, float]]:
    """(what, tokens that are trained on, seconds) of each part of the line: an estimate."""
    size = (model.weights or WEIGHTS) / WEIGHTS
    trainings = [*(["settle"] if plan.settle_steps else []), *plan.methods]
    models = [*(["source"] if plan.settle_steps else []), "backbone", *["run"] * len(plan.methods)]
    parts: list[tuple[str, int, float]] = [("corpus and backbone", 0, GPU_CORPUS if machine.gpu else CPU_CORPUS)]
    reads = 2 * plan.measured * plan.row_tokens  # tokens of two domains
    slower = size * (1 if machine.bf16 else SLOW) * 2 / plan.threads
    for name in trainings:
        tokens = plan.tokens(name)
        if machine.gpu:
            seconds = tokens * size / GPU_RATE + GPU_START
        else:
            times_measured = 1 + tokens / (plan.batch_rows * plan.row_tokens * plan.every)
            seconds = CPU_START + slower * (tokens / CPU_RATES[name] + times_measured * reads / CPU_READS)
        parts.append((name, tokens, seconds))
    seconds = sum(
        GPU_START if machine.gpu else CPU_START + slower * PASSES_TO_MEASURE[name] * reads / CPU_READS
        for name in models
    )
    return [*parts, ("evaluation and report", 0, seconds)]


def disk_bytes(plan: Plan, model: Model, text_bytes: int) -> float:
    kinds = [*(["source"] if plan.settle_steps else []), "backbone"]
    kinds += ["finetune" if name in ("finetune", "control") else "added" for name in plan.methods]
    weights = sum(WEIGHT_BYTES[kind] for kind in kinds) * (model.weights or WEIGHTS)
    return weights + CORPUS_BYTES * text_bytes + PACKAGES_BYTES


def memory_gb(plan: Plan, model: Model) -> float:
    """The most that a job takes: a training of all weights, or one of a method."""
    all_weights = plan.settle_steps or {"finetune", "control"}.intersection(plan.methods)
    return PROCESS_GB + MEMORY_GB["settle" if all_weights else "neutral"] * (model.weights or WEIGHTS) / WEIGHTS


# The old language's text, where the user has none -----------------------------------------------------

CLIENTS = {"apt": ("apt-get", "dpkg-deb"), "npm": ("npm",), "wheel": ()}
REPLAY = ("libreoffice-help-en-us", "python-doc")
SETTLE = ("brown",)
MORE_REPLAY, MORE_SETTLE = ("postgresql-doc", "debian-guides-en"), ("anarchism", "jargon")  # for a GPU
HELD = ("brown", "git-doc", "questions")


@dataclass(frozen=True)
class OldText:
    """Sources of the sample (pipeline/crawl/catalogue.py), by what they are for; `held` measures forgetting."""

    replay: tuple[str, ...] = ()
    settle: tuple[str, ...] = ()
    held: tuple[str, ...] = ()

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys((*self.replay, *self.settle, *self.held)))


def old_text(code: str, given: bool, settles: bool, big: bool) -> OldText | None:
    """Packages with text of the old language, by its ISO code, that the clients of this machine can fetch.

    given: the user has text of it, so that only another kind is wanted, to measure forgetting. None: there is no
    such package.
    """
    if code != "en":
        manual = f"libreoffice-help-{code}"
        return OldText() if given else OldText((manual,)) if _there(manual) else None
    held = [name for name in HELD if _there(name)]
    if given:
        return OldText(held=tuple(held[: 3 if big else 1]))
    replay = tuple(name for name in (*REPLAY, *(MORE_REPLAY if big else ())) if _there(name))
    settle = tuple(name for name in (*SETTLE, *(MORE_SETTLE if big else ())) if _there(name))
    if not replay:  # without apt: half of the Brown corpus
        return OldText(SETTLE, SETTLE, HELD[2:]) if _there("brown") else None
    return OldText(replay, settle if settles else (), tuple(held[: 3 if big else 1]))


def _there(name: str) -> bool:
    """Whether there is a source of this name, and the clients that fetch it."""
    if name not in SOURCES:
        return False
    clients = {package.client for package in SOURCES[name].packages}
    return all(shutil.which(program) for client in clients for program in CLIENTS[client])
