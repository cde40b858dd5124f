"""The one training loop, for pretraining and for every method: plain steps of the optimizer.

All that differs between methods is which weights are trainable and what the blocks add on the way back
(models/extend.py, models/block.py). The rows of a step are a pure function of its number, so that a run
killed at any moment and started again ends in the same weights, to the bit (on a CPU).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backbone import compute
from models.cost import flops_per_token, peak_flops
from models.extend import decoder_layers
from models.local_losses import Context, make_probe
from models.loss import sum_nll
from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.common.progress import progress
from train.data.rows import Rows
from train.distributed import add_gradients, add_over_ranks, clip_gradients, rank, shard, world
from train.evaluation.bits_per_byte import rows_to_score, score_rows
from train.runs.options import BackboneTraining, Run, Training
from train.trainer import checkpoint
from train.trainer.documents import keep_documents_apart
from train.trainer.failures import exploded, memory_advice
from train.trainer.metrics import metrics_log, summarise
from train.trainer.micro_batches import micro_batches, scored_tokens
from train.trainer.mixture import Batch, batches, is_measured, read_batch
from train.trainer.optimizer import learning_rate, make_optimizer
from train.trainer.randomness import without_randomness
from train.trainer.tracking import tracker

log = logging.getLogger(__name__)

STATISTICS_EVERY = 10
# Batches with old-domain rows that set `alpha: auto`.
ALPHA_BATCHES = 8
# Graphs of a layer: of an input with a gradient or without, measured or not, of micro-batches of two sizes.
RECOMPILE_LIMIT = 16
# A loss of more than this many times ln(vocabulary), what guessing costs, has exploded.
EXPLODED = 3.0


@dataclass(frozen=True)
class TrainingJob:
    """All that a training needs. `old` is None where there is one domain; `context` is that of the trained blocks.

    `decisive` names those of `validations` that decide about flat_below.
    """

    title: str
    model: Any
    options: Training
    old: Rows | None
    new: Rows
    validations: dict[str, Rows]
    checkpoints: str
    identity: str
    device: torch.device
    context: Context = field(default_factory=Context)
    decisive: tuple[str, ...] = ()


def train(job: TrainingJob) -> checkpoint.State:
    """Train to the last step, from the newest checkpoint if there is one. Returns the metrics and times.

    Metrics: a line for each step and one for each evaluation (step 0, every evaluate_every, the last); they
    also stand in the folder of the checkpoints while it trains. Raises StageError where the loss or its
    gradient is not a finite number, where the loss explodes, and where memory runs out.
    """
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)  # of an earlier training in this process
    with without_randomness(job.model):
        return _train(job)


def _train(job: TrainingJob) -> checkpoint.State:
    options = job.options
    set_up_layers(job)
    optimizer = make_optimizer(job.model, options)
    state = checkpoint.resume(job.checkpoints, job.identity, job.model, optimizer)
    with (
        progress(options.steps, job.title, "steps", done=state.step, quiet=rank() > 0) as bar,
        memory_advice(options, job.device, state.step),
    ):
        if state.alpha is None:
            state.alpha = find_alpha(job)
        if not state.metrics:
            state.metrics.append(evaluate(job, 0))
        flops, peak = flops_per_token(job.model, job.new.row_tokens), peak_flops(job.device)
        stream = batches(state.step, options, job.old, job.new, rank(), world())
        with (
            metrics_log(job.checkpoints, state.metrics) if rank() == 0 else nullcontext(lambda line: None) as tell,
            tracker(options, tracked_as(job), state.metrics)
            if rank() == 0
            else nullcontext(lambda line: None) as track,
            checkpoint.saver(
                job.checkpoints, job.identity, job.model, optimizer, beside=job.device.type == "cuda"
            ) as (save, wait),
        ):
            bar.unpause()
            while state.step < options.steps and not is_flat(state.metrics, options, job.decisive):
                started, worked = time.perf_counter(), time.process_time()
                batch = next(stream)
                waited = time.perf_counter() - started
                record = take_step(job, optimizer, batch, state)
                if not is_sound(job, record):
                    wait()  # for the last good checkpoint
                    raise StageError(exploded(options, job.old, job.new, state.step, record, job.checkpoints))
                elapsed = time.perf_counter() - started
                state.step += 1
                state.seconds += elapsed
                state.cpu_seconds += (time.process_time() - worked) * world()  # processes, which all do the same
                speed = options.batch_rows * job.new.row_tokens / elapsed
                record |= {"tokens_per_s": round(speed), "waiting": round(waited / elapsed, 5)}
                if peak:
                    record["mfu"] = speed * flops / (peak * world())
                lines = [{"step": state.step, **record}]
                bar.set_postfix_str(f"loss {record['loss']:.3f}", refresh=False)
                bar.update(1)
                if state.step % options.evaluate_every == 0 or state.step == options.steps:
                    lines.append(evaluate(job, state.step))
                for line in lines:
                    tell(line)
                    track(line)
                state.metrics += lines
                if state.step % options.checkpoint_every == 0 and state.step < options.steps:
                    save(state)
    return state


def tracked_as(job: TrainingJob) -> str:
    """The name of a training in a tracker: another one for other options or inputs, which are another curve."""
    return f"{Path(job.checkpoints).stem}-{job.identity[:8]}"


def set_up_layers(job: TrainingJob) -> None:
    """Recompute, compile and shard the decoder layers, and have them keep documents apart, as the options say."""
    options, layers = job.options, decoder_layers(job.model)
    if options.activation_checkpointing:
        # It has another name in newer versions of transformers. The re-entrant kind needs an input with a
        # gradient, which the first frozen layer has not.
        model = job.model
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        try:
            enable({"use_reentrant": False})
        except ValueError:
            what = f"transformers cannot recompute the layers of a {type(model).__name__}"
            raise StageError(f"activation_checkpointing: {what}; set it to false") from None
    if options.compile:
        # What an earlier training in this process compiled counts towards the limit, behind which layers would run
        # uncompiled with no more than a line in a log.
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        for layer in layers:
            layer.compile()
        log.info("the layers are compiled in the first steps, which take longer")
    if options.shard:
        shard(job.model, layers, job.device)
    if options.mask_documents:
        with uncompiled(options):
            keep_documents_apart(job.model, job.device, job.new.row_tokens)


# A step -------------------------------------------------------------------------------------------


def take_step(
    job: TrainingJob, optimizer: torch.optim.Optimizer, batch: Batch, state: checkpoint.State
) -> dict[str, float]:
    """Gradients of the batch, then one update of the weights; returns the step's line of the metrics."""
    options, step, alpha = job.options, state.step, state.alpha or 0.0
    job.model.train()
    optimizer.zero_grad(set_to_none=True)
    sums = accumulate(job, batch, alpha, measure=is_measured(step, options, STATISTICS_EVERY))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    add_gradients(trained)
    norm = clip_gradients(trained, options.clip)
    rate = learning_rate(step, options)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    # All that is read in a step is read here, at once: the only time that the CPU waits for a GPU.
    norm, loss, *measured = torch.cat([norm.view(1), sums]).tolist()
    return {"loss": loss, "lr": rate, "grad_norm": norm, **measures(job, batch, alpha, measured)}


def is_sound(job: TrainingJob, record: dict[str, float]) -> bool:
    """Whether the loss has not exploded, and it and the norm of its gradient are finite numbers."""
    most = EXPLODED * math.log(job.new.metadata["vocabulary"])
    return math.isfinite(record["grad_norm"]) and record["loss"] <= most


def accumulate(job: TrainingJob, batch: Batch, alpha: float, measure: bool) -> Tensor:
    """Add up the gradients of this rank's rows, micro-batch by micro-batch.

    Returns, on the device, the loss of the whole step (nats per token, all ranks) and behind it, with `measure`,
    the five sums that blocks measured, if there are blocks. Every mean is over the whole step and all ranks, so
    that the size of a micro-batch changes nothing: docs/method.md, Loss. That of the language model is over the
    tokens that are scored, local losses are over all.
    """
    tokens, old_tokens = batch.rows * job.new.row_tokens, batch.old_rows * job.new.row_tokens
    is_scored_BT = scored_tokens(job, batch)
    scored = tokens if is_scored_BT is None else count(job, is_scored_BT)
    # Filled in, and not copied, which would wait for the device.
    l1 = torch.full((), alpha / old_tokens if old_tokens else 0.0, device=job.device) if alpha else None
    probe_5 = make_probe(job.device) if measure else None
    loss = torch.zeros(1, device=job.device)
    for micro in micro_batches(job, batch, is_scored_BT):
        with job.context.losses(micro.old_B11, l1, beta(job.options) / tokens, probe_5):
            with compute(job.device, job.model):
                part = sum_nll(job.model, micro.tokens_BT1, micro.weight_BT, micro.position_BT, micro.bounds_111S)
                part = part / scored
            part.backward()
        loss += part.detach()
    sums = loss if probe_5 is None or probe_5.grad is None else torch.cat([loss, probe_5.grad])
    add_over_ranks([sums])
    return sums


def measures(job: TrainingJob, batch: Batch, alpha: float, measured: list[float]) -> dict[str, float]:
    """What blocks measured, as means: summarise() of metrics.py."""
    old, new = batch.old_rows * job.new.row_tokens, (batch.rows - batch.old_rows) * job.new.row_tokens
    config = job.model.config.get_text_config()
    return summarise(measured, old, new, config.num_hidden_layers, config.hidden_size, with_l1=bool(alpha))


def count(job: TrainingJob, is_scored_BT: np.ndarray) -> Tensor:
    """How many tokens of the whole step, all ranks together, the language-model loss scores; at least 1."""
    total = torch.full((), int(is_scored_BT.sum()), device=job.device)
    add_over_ranks([total])
    return total.clamp(min=1)


def beta(options: Training) -> float:
    """Weight of the gates' cross-entropy: of neutral blocks only. That the gate is a sigmoid the block checks."""
    return options.beta if isinstance(options, Run) and options.method == "neutral" else 0.0


def uncompiled(options: Training) -> AbstractContextManager[Any]:
    """Compiled layers run uncompiled inside it: what computes without gradients would need graphs of its own."""
    return torch.compiler.set_stance("force_eager") if options.compile else nullcontext()


def find_alpha(job: TrainingJob) -> float:
    """alpha; for `auto` the one at which the l1 gradient is alpha_ratio times as strong as the LM gradient.

    Both are norms at the blocks' outputs on old tokens, of losses that are means over these tokens, before the
    first step; of the first batches that have some the median, since single rows have gradients many times as
    large. There the outputs are zero, and so is the l1 gradient; but once they are not, each of its numbers is
    alpha / (N_old L D) or minus that, so that its norm is known: alpha / sqrt(N_old L D). Without old-domain rows
    (old_rate 0) alpha is 0. Raises StageError where none of the batches has any.
    """
    options, model = job.options, job.model
    if not isinstance(options, Run) or options.method != "neutral":
        return 0.0
    if not isinstance(options.alpha, str):
        return options.alpha
    if not options.old_rate:
        return 0.0
    config = model.config.get_text_config()
    equal = []  # alphas at which both are as strong
    log.info("choosing alpha by the gradients of %d batches", ALPHA_BATCHES)
    model.train()
    all_steps = (read_batch(step, options, job.old, job.new, rank(), world()) for step in range(options.steps))
    for batch in islice((batch for batch in all_steps if batch.old_rows), ALPHA_BATCHES):
        _, *measured = accumulate(job, batch, 1.0, measure=True).tolist()
        model.zero_grad(set_to_none=True)
        numbers = batch.old_rows * job.new.row_tokens * config.num_hidden_layers * config.hidden_size
        equal.append(measures(job, batch, 1.0, measured)["lm_gradient"] * math.sqrt(numbers))
    if not equal:
        raise StageError(
            "alpha: auto finds no old-domain row in the whole training; raise old_rate or give a number"
        )
    return options.alpha_ratio * median(equal)


# Evaluation -------------------------------------------------------------------------------------


def evaluate(job: TrainingJob, step: int) -> dict[str, Any]:
    """A line of the metrics: how hard some rows of each domain are, together and by document."""
    options = job.options
    job.model.eval()
    domains = {}
    limit = options.evaluate_rows
    total = sum(rows_to_score(rows, limit) for rows in job.validations.values())
    with (
        uncompiled(options),
        progress(total, f"measuring at step {step}", "rows", quiet=rank() > 0) as bar,
    ):
        for name, rows in job.validations.items():
            score = score_rows(job.model, rows, options.micro_batch_rows, job.device, limit, bar.update)
            domains[name] = {key: score[key] for key in ("bpb", "nats_per_token")}
            domains[name]["documents"] = to_data(score["documents"])  # for intervals of what the curves say
    return {"step": step, "evaluation": domains}


def is_flat(metrics: list[dict[str, Any]], options: Training, decisive: Iterable[str]) -> bool:
    """Whether a training may stop: the last evaluation gained less than flat_below on every decisive domain.

    >>> metrics = [{"step": step, "evaluation": {"en": {"bpb": bpb}}} for step, bpb in ((0, 4.0), (100, 3.95))]
    >>> is_flat(metrics, BackboneTraining(learning_rate=1e-3, flat_below=0.1), ["en"])
    True
    """
    scores = [line["evaluation"] for line in metrics if "evaluation" in line]
    if not isinstance(options, BackboneTraining) or not options.flat_below or len(scores) < 2:
        return False
    before, last = scores[-2:]
    return all(before[name]["bpb"] - last[name]["bpb"] < options.flat_below for name in decisive)
