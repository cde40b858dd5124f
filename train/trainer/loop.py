"""The one training loop, for pretraining and for every method: plain steps of the optimizer.

All that differs between methods is which weights are trainable and what the blocks add on the way back
(models/extend.py, models/block.py). The rows of a step are a pure function of its number, so that a run
killed at any moment and started again ends in the same weights, to the bit (on a CPU).
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backbone import compute
from models.block import Context
from models.cost import flops_per_token, peak_flops
from models.extend import decoder_layers
from models.loss import sum_nll
from pipeline.common.errors import StageError
from pipeline.common.progress import progress
from train.data.rows import Rows
from train.distributed import add_gradients, add_over_ranks, clip_gradients, rank, shard, world
from train.evaluation.bits_per_byte import score_rows
from train.runs.options import Pretrain, Run, Training
from train.trainer import checkpoint
from train.trainer.failures import exploded, memory_advice
from train.trainer.metrics import metrics_log, summarise
from train.trainer.mixture import Batch, batches, read_batch
from train.trainer.optimizer import learning_rate, make_optimizer

STATISTICS_EVERY = 10
# Batches with old-domain rows that set `alpha: auto`.
ALPHA_BATCHES = 8
# Graphs of a layer: with and without gradients, and for micro-batches of two sizes.
RECOMPILE_LIMIT = 16
# A loss of more than this many times ln(vocabulary), what guessing costs, has exploded.
EXPLODED = 3.0


@dataclass(frozen=True)
class Task:
    """All that a training needs. `old` is None in pretraining; `context` is that of the trained blocks."""

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


def train(task: Task) -> checkpoint.State:
    """Train to the last step, from the newest checkpoint if there is one. Returns the metrics and times.

    Metrics: a line for each step and one for each evaluation (step 0, every evaluate_every, the last); they
    also stand in the folder of the checkpoints while it trains. Raises StageError where the loss or its
    gradient is not a finite number, where the loss explodes, and where memory runs out.
    """
    options = task.options
    set_up_layers(task)
    optimizer = make_optimizer(task.model, options)
    state = checkpoint.resume(task.checkpoints, task.identity, task.model, optimizer)
    with memory_advice(options, task.device, state.step):
        if state.alpha is None:
            state.alpha = find_alpha(task)
        if not state.metrics:
            state.metrics.append(evaluate(task, 0))
    flops, peak = flops_per_token(task.model, task.new.row_tokens), peak_flops(task.device)
    stream = batches(state.step, options, task.old, task.new, rank(), world())
    with (
        progress(options.steps, task.title, "steps", done=state.step, quiet=rank() > 0) as bar,
        metrics_log(task.checkpoints, state.metrics) if rank() == 0 else nullcontext(lambda line: None) as tell,
        memory_advice(options, task.device, state.step),
    ):
        while state.step < options.steps and not is_flat(state.metrics, options):
            started = time.perf_counter()
            batch = next(stream)
            waited = time.perf_counter() - started
            record = take_step(task, optimizer, batch, state)
            elapsed = time.perf_counter() - started
            state.step += 1
            state.seconds += elapsed
            speed = options.batch_rows * task.new.row_tokens / elapsed
            record |= {"tokens_per_s": round(speed), "waiting": round(waited / elapsed, 5)}
            if peak:
                record["mfu"] = speed * flops / (peak * world())
            lines = [{"step": state.step, **record}]
            bar.set_postfix_str(f"loss {record['loss']:.3f}", refresh=False)
            bar.update(1)
            if state.step % options.evaluate_every == 0 or state.step == options.steps:
                lines.append(evaluate(task, state.step))
            for line in lines:
                tell(line)
            state.metrics += lines
            if state.step % options.checkpoint_every == 0 and state.step < options.steps:
                checkpoint.save(task.checkpoints, task.identity, task.model, optimizer, state)
    return state


def set_up_layers(task: Task) -> None:
    """Recompute, compile and shard the decoder layers, as the options say."""
    options, layers = task.options, decoder_layers(task.model)
    if options.activation_checkpointing:
        # It has another name in newer versions of transformers. The re-entrant kind needs an input with a
        # gradient, which the first frozen layer has not.
        model = task.model
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if options.compile:
        # What an earlier training in this process compiled counts towards the limit, behind which layers would run
        # uncompiled with no more than a line in a log.
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        for layer in layers:
            layer.compile()
    if isinstance(options, Run) and options.shard:
        shard(task.model, layers, task.device)


# A step -------------------------------------------------------------------------------------------


def take_step(
    task: Task, optimizer: torch.optim.Optimizer, batch: Batch, state: checkpoint.State
) -> dict[str, float]:
    """The optimizer step behind `state.step`; returns its line of the metrics."""
    options, step = task.options, state.step
    # For the dropout of backbones that have one: step and rank alone say what is dropped.
    torch.manual_seed((options.seed << 32) + step * world() + rank())
    optimizer.zero_grad(set_to_none=True)
    task.model.train()
    loss, measures = accumulate(task, batch, state.alpha or 0.0, measure=step % STATISTICS_EVERY == 0)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    add_gradients(trained)
    norm = clip_gradients(trained, options.clip).item()
    if not (math.isfinite(norm) and loss <= EXPLODED * math.log(task.new.metadata["vocabulary"])):
        raise StageError(exploded(options, task.old, task.new, step, loss, norm, task.checkpoints))
    rate = learning_rate(step, options)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return {"loss": loss, "lr": rate, "grad_norm": norm, **measures}


def accumulate(task: Task, batch: Batch, alpha: float, measure: bool) -> tuple[float, dict[str, float]]:
    """Add up the gradients of this rank's rows, micro-batch by micro-batch; returns the step's loss and measures.

    Every mean is over the whole step and all ranks, so that the size of a micro-batch changes nothing; and
    micro-batch i of n has rows i, i + n, …, so that n on one rank are one each on n ranks. METHOD, Loss.
    """
    options, length = task.options, task.new.row_tokens
    tokens, old_tokens = batch.rows * length, batch.old_rows * length
    parts = math.ceil(len(batch.tokens_BT1) / options.micro_batch_rows)
    loss, statistics = torch.zeros((), device=task.device), []
    l1 = torch.tensor(alpha / old_tokens if old_tokens else 0.0, device=task.device) if alpha else None
    with plainly(task, measure):
        for part in range(parts):
            tokens_BT1 = to_device(batch.tokens_BT1[part::parts], task.device)
            old_B11 = to_device(batch.draw.is_old[part::parts, None, None].astype(np.float32), task.device)
            with task.context.losses(old_B11, l1, cross_entropy(options) / tokens, measure) as measured:
                with compute(task.device, task.model):
                    part_loss = sum_nll(task.model, tokens_BT1, position_BT=positions(task, tokens_BT1)) / tokens
                part_loss.backward()
            loss += part_loss.detach()
            statistics.append(measured)
    add_over_ranks([loss])
    return loss.item(), summarise(statistics, old_tokens, tokens - old_tokens, task.model)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device, which goes there while the device still computes."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def positions(task: Task, tokens_BT1: Tensor) -> Tensor | None:
    """With mask_documents, each token's position_BT in its document, by which transformers keeps them apart."""
    if not task.options.mask_documents:
        return None
    tokens_BT = tokens_BT1[:, :-1]
    place_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
    starts_BT = torch.where(tokens_BT == task.new.metadata["separator"], place_BT, 0)
    return place_BT - starts_BT.cummax(1).values


def cross_entropy(options: Training) -> float:
    """beta: of a neutral block only, and of a sigmoid gate only (the block sees to that)."""
    return options.beta if isinstance(options, Run) and options.method == "neutral" else 0.0


def plainly(task: Task, plain: bool) -> AbstractContextManager[Any]:
    """Compiled layers run uncompiled where they are measured, which would have to be compiled apart."""
    return torch.compiler.set_stance("force_eager") if plain and task.options.compile else nullcontext()


def find_alpha(task: Task) -> float:
    """alpha; for `auto` the one at which the l1 gradient is alpha_ratio times as strong as the LM gradient.

    Both are norms at the blocks' outputs on old tokens, over the first batches that have some, before the
    first step. There the outputs are zero, and so is the l1 gradient; but once they are not, each of its
    numbers is alpha / (N_old L D) or minus that, so that its norm is known: alpha / sqrt(N_old L D).
    Raises StageError where no batch has old tokens.
    """
    options, model = task.options, task.model
    if not isinstance(options, Run) or options.method != "neutral":
        return 0.0
    if not isinstance(options.alpha, str):
        return options.alpha
    config = model.config.get_text_config()
    lm, l1, found = 0.0, 0.0, 0
    model.train()
    for step in range(options.steps):
        batch = read_batch(step, options, task.old, task.new, rank(), world())
        if batch.old_rows:
            torch.manual_seed(options.seed)
            _, measures = accumulate(task, batch, 1.0, measure=True)
            model.zero_grad(set_to_none=True)
            lm += measures["lm_gradient"] ** 2
            l1 += 1 / (batch.old_rows * task.new.row_tokens * config.num_hidden_layers * config.hidden_size)
            found += 1
        if found == ALPHA_BATCHES:
            break
    if not found:
        raise StageError(
            "alpha: auto finds no old-domain row in the whole training; raise old_rate or give a number"
        )
    return options.alpha_ratio * math.sqrt(lm / l1)


# Evaluation -------------------------------------------------------------------------------------


def evaluate(task: Task, step: int) -> dict[str, Any]:
    """A line of the metrics: bits per byte and nats per token on the first rows of each domain."""
    options = task.options
    task.model.eval()
    found = {}
    with plainly(task, True):
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
