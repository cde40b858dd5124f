"""The one training loop, for pretraining and for every method: plain steps of the optimizer.

All that differs between methods is which weights are trainable and what the blocks add on the way back
(models/extend.py, models/block.py). The rows of a step are a pure function of its number, so that a run
killed at any moment and started again ends in the same weights, to the bit (on a CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.backbone import compute
from models.block import Context, MicroBatch, Statistics
from models.loss import sum_nll
from pipeline.cli import StageError
from pipeline.progress import progress
from train import checkpoint
from train.options import Pretrain, Run, Training
from train.rows import Draw, Rows, mixture
from train.score import score_rows

STATISTICS_EVERY = 10


@dataclass(frozen=True)
class Task:
    """All that a training needs. `old` is None in pretraining; `context` is None without blocks."""

    title: str
    model: Any
    options: Training
    old: Rows | None
    new: Rows
    validations: dict[str, Rows]
    checkpoints: str
    identity: str
    device: torch.device
    context: Context | None = None


def train(task: Task) -> checkpoint.State:
    """Train to the last step, from the newest checkpoint if there is one. Returns the metrics and times.

    Metrics: a line for each step and one for each evaluation (step 0, every evaluate_every, the last).
    Raises StageError where the loss or its gradient is not a finite number.
    """
    options, optimizer = task.options, make_optimizer(task.model, task.options)
    state = checkpoint.resume(task.checkpoints, task.identity, task.model, optimizer)
    if not state.metrics:
        state.metrics.append(evaluate(task, 0))
    with progress(options.steps, task.title, "steps", done=state.step) as bar:
        while state.step < options.steps and not is_flat(state.metrics, options):
            started = time.perf_counter()
            record = take_step(task, optimizer, state.step)
            elapsed = time.perf_counter() - started
            state.step += 1
            state.seconds += elapsed
            speed = options.batch_rows * task.new.row_tokens / elapsed
            state.metrics.append({"step": state.step, **record, "tokens_per_s": round(speed)})
            bar.set_postfix_str(f"loss {record['loss']:.3f}", refresh=False)
            bar.update(1)
            if state.step % options.evaluate_every == 0 or state.step == options.steps:
                state.metrics.append(evaluate(task, state.step))
            if state.step % options.checkpoint_every == 0 and state.step < options.steps:
                checkpoint.save(task.checkpoints, task.identity, task.model, optimizer, state)
    return state


def take_step(task: Task, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """One optimizer step (numbered from 0); returns its line of the metrics."""
    options = task.options
    draw = mixture(step, options, len(task.old) if task.old else 0, len(task.new))
    # For the dropout of backbones that have one: the step alone says what is dropped.
    torch.manual_seed((options.seed << 32) + step)
    optimizer.zero_grad(set_to_none=True)
    task.model.train()
    loss, measures = accumulate(task, draw, measure=step % STATISTICS_EVERY == 0)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, options.clip or math.inf).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise StageError(_not_finite(task, draw, step, loss, norm))
    rate = learning_rate(step, options)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return {"loss": loss, "lr": rate, "grad_norm": norm, **measures}


def accumulate(task: Task, draw: Draw, measure: bool) -> tuple[float, dict[str, float]]:
    """Add up the gradients of the step's rows, micro-batch by micro-batch; returns its loss and measures.

    Every mean is over the whole step, so that the size of a micro-batch changes nothing. METHOD, Loss.
    """
    options, length = task.options, task.new.row_tokens
    old_tokens, tokens = int(draw.is_old.sum()) * length, len(draw.is_old) * length
    alpha, beta = local_losses(options)
    loss, statistics = torch.zeros((), device=task.device), []
    for start in range(0, len(draw.index), options.micro_batch_rows):
        part = slice(start, start + options.micro_batch_rows)
        is_old = draw.is_old[part]
        tokens_BT1 = torch.from_numpy(take_rows(task, is_old, draw.index[part])).to(task.device)
        old_B11 = torch.from_numpy(is_old.astype(np.float32)).to(task.device).view(-1, 1, 1)
        batch = MicroBatch(old_B11, alpha / old_tokens if old_tokens else 0.0, beta / tokens)
        if measure and task.context is not None:
            batch.statistics = Statistics()
            statistics.append(batch.statistics)
        with in_flight(task.context, batch):
            with compute(task.device):
                part_loss = sum_nll(task.model, tokens_BT1) / tokens
            part_loss.backward()
        loss += part_loss.detach()
    return loss.item(), summarise(statistics, old_tokens, tokens - old_tokens, task.model)


def local_losses(options: Training) -> tuple[float, float]:
    """alpha and beta: of a neutral block only, beta of a sigmoid gate only (the block sees to that)."""
    if isinstance(options, Run) and options.method == "neutral":
        return options.alpha, options.beta
    return 0.0, 0.0


@contextmanager
def in_flight(context: Context | None, batch: MicroBatch) -> Iterator[None]:
    """Blocks know `batch` until its backward pass, and any recomputation in it, is done."""
    if context is None:
        yield
        return
    context.batch = batch
    try:
        yield
    finally:
        context.batch = None


def take_rows(task: Task, is_old: np.ndarray, index: np.ndarray) -> np.ndarray:
    """tokens_BT1 of the rows drawn, in the order drawn."""
    tokens_BT1 = np.empty((len(index), task.new.row_tokens + 1), np.int64)
    tokens_BT1[~is_old] = task.new.tokens(index[~is_old])
    if task.old is not None:
        tokens_BT1[is_old] = task.old.tokens(index[is_old])
    return tokens_BT1


def summarise(statistics: list[Statistics], old: int, new: int, model: Any) -> dict[str, float]:
    """Means over tokens and layers: l1 (also width), gate_old, gate_new; and l1_ratio.

    l1_ratio is the norm of the l1 gradient over that of the rest, at the blocks' outputs on old tokens.
    """
    forward = [sums for one in statistics for sums in one.forward.values()]
    if not forward:
        return {}
    layers, size = len(statistics[0].forward), model.config.get_text_config().hidden_size
    absolute, gate_old, gate_new = torch.stack(forward).double().sum(0).tolist()
    found: dict[str, float] = {}
    if old:
        found |= {"l1": absolute / (old * layers * size), "gate_old": gate_old / (old * layers)}
    if new:
        found["gate_new"] = gate_new / (new * layers)
    backward = [squares for one in statistics for squares in one.backward.values()]
    if backward and old:
        lm, l1 = torch.stack(backward).double().sum(0).tolist()
        found["l1_ratio"] = math.sqrt(l1 / lm) if lm else 0.0
    return found


def _not_finite(task: Task, draw: Draw, step: int, loss: float, norm: float) -> str:
    documents = sorted(set(task.new.documents(draw.index[~draw.is_old]).tolist()))
    text = f"documents {documents} of {task.new.path}"
    if task.old is not None:
        text += f" and {sorted(set(task.old.documents(draw.index[draw.is_old]).tolist()))} of {task.old.path}"
    good = checkpoint.newest(task.checkpoints) or "none yet"
    return (
        f"step {step + 1}: the loss is {loss} and the norm of its gradient {norm}, on {text}; "
        f"lower learning_rate, or look at these documents (last good checkpoint: {good})"
    )


def make_optimizer(model: Any, options: Training) -> torch.optim.Optimizer:
    """Fused AdamW over the trainable weights; matrices decay, but gates, norms and biases don't."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decays = {name: weight.ndim >= 2 and ".block.gate." not in name for name, weight in named}
    groups = [
        {"params": [weight for name, weight in named if decays[name] is decay], "weight_decay": strength}
        for decay, strength in ((True, options.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=True,
    )


def learning_rate(step: int, options: Training) -> float:
    """Linear warm-up, then a cosine to final_share of the peak at the last step. METHOD, Optimisation."""
    warmup = math.ceil(options.warmup_share * options.steps)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    done = (step - warmup + 1) / max(1, options.steps - warmup)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return options.learning_rate * (options.final_share + (1 - options.final_share) * cosine)


def evaluate(task: Task, step: int) -> dict[str, Any]:
    """A line of the metrics: bits per byte and nats per token on the first rows of each domain."""
    options = task.options
    task.model.eval()
    found = {}
    for name, rows in task.validations.items():
        score = score_rows(task.model, rows, options.micro_batch_rows, task.device, options.evaluate_rows)
        found[name] = {"bpb": score["bpb"], "nats_per_token": score["nats_per_token"]}
    return {"step": step, "evaluation": found}


def is_flat(metrics: list[dict[str, Any]], options: Training) -> bool:
    """Whether pretraining may stop: the first domain's last evaluation gained less than flat_below."""
    if not isinstance(options, Pretrain) or not options.flat_below:
        return False
    scores = [list(line["evaluation"].values()) for line in metrics if "evaluation" in line]
    curve = [domains[0]["bpb"] for domains in scores if domains]
    return len(curve) > 1 and curve[-2] - curve[-1] < options.flat_below
