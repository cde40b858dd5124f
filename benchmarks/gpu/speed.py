"""Whole steps of the trainer, and of Hugging Face's Trainer with peft: speed, memory, and what else they cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu.toys import SIZES, make_model, make_training, random_rows, sketch
from models.backbone import compute_dtype
from models.cost import flops_per_token, peak_flops
from train.runs.options import Run
from train.trainer import checkpoint
from train.trainer.checkpoint import State
from train.trainer.loop import STATISTICS_EVERY, TrainingJob, take_step
from train.trainer.mixture import batches
from train.trainer.optimizer import make_optimizer
from train.trainer.stages import peak_memory_mib

WARM_UP, TIMED, AFTER_CHECKPOINT, PROFILED = 12, 20, 5, 3
KERNELS = 14


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of the trainer itself, from rows to the optimizer: tokens/s, MFU, memory, graphs, the top kernels.

    Also the shares of a training's time that its measuring steps and its checkpoints take, which a median hides.
    """
    device = torch.device(job["device"])
    if device.type == "cuda" and job["attention"] == "flash":
        torch.backends.cuda.enable_cudnn_sdp(False)
    warm_up, timed = (2, 9) if job["toy"] else (WARM_UP, job.get("timed", TIMED))
    with TemporaryDirectory() as folder:
        training = make_training(job, folder, steps=warm_up + timed + AFTER_CHECKPOINT + PROFILED)
        optimizer, state = make_optimizer(training.model, training.options), State(alpha=training.options.alpha)
        stream = batches(0, training.options, training.old, training.new)

        def step() -> float:
            started = time.perf_counter()
            take_step(training, optimizer, next(stream), state)  # reads the loss, and so waits for the GPU
            state.step += 1
            return time.perf_counter() - started

        warming = sum(step() for _ in range(warm_up))
        spent, measured = [], []
        for _ in range(timed):
            kind = measured if state.step % STATISTICS_EVERY == 0 else spent
            kind.append(step())
        tokens, middle = job["rows"] * job["row_tokens"], statistics.median(spent)
        flops, peak = flops_per_token(training.model, job["row_tokens"]), peak_flops(device)
        more = statistics.mean(measured) - middle
        result = {
            "tokens_per_s": tokens / middle,
            "tokens_per_s_with_measured_steps": timed * tokens / (sum(spent) + sum(measured)),
            "measuring_share": more / (STATISTICS_EVERY * middle + more),
            "mfu": tokens / middle * flops / peak if peak else None,
            "gflops_per_token": flops / 1e9,
            "peak_mib": peak_memory_mib(device),
            "warm_up_s": warming,
            "graphs": graphs(),
            "width": next(
                (m.down_proj.in_features for m in training.model.modules() if hasattr(m, "context")), None
            ),
            **checkpointing(training, optimizer, state, step, middle),
        }
        if device.type == "cuda":
            result["profile"] = profile(step)
        return result


def checkpointing(
    training: TrainingJob, optimizer: torch.optim.Optimizer, state: State, step: Callable[[], float], middle: float
) -> dict[str, float]:
    """Seconds that one checkpoint keeps the training from going on, and the share of a training that they are.

    While it is being written, it may slow down the steps behind it.
    """
    beside = training.device.type == "cuda"
    with checkpoint.saver(training.checkpoints, "", training.model, optimizer, beside) as (save, _):
        started = time.perf_counter()
        save(state)
        blocked = time.perf_counter() - started
        cost = blocked + sum(step() for _ in range(AFTER_CHECKPOINT)) - AFTER_CHECKPOINT * middle
    every = Run(learning_rate=1e-3).checkpoint_every * middle
    return {"checkpoint_blocks_s": blocked, "checkpoint_costs_s": cost, "checkpoint_share": cost / (every + cost)}


def graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def profile(step: Callable[[], float]) -> dict[str, Any]:
    """Of a few steps: the share of the time in which the GPU computes, and its kernels with most of it."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    started = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            step()
    elapsed = time.perf_counter() - started
    kernels = [
        (event.self_device_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    total = sum(spent for spent, _, _ in kernels)
    return {
        "ms_a_step": 1e3 * elapsed / PROFILED,
        "gpu_ms_a_step": total / 1e3 / PROFILED,
        "kernels_a_step": sum(count for _, count, _ in kernels) / PROFILED,
        "top": [
            {"ms": spent / 1e3 / PROFILED, "calls": count / PROFILED, "kernel": name[:110]}
            for spent, count, name in sorted(kernels, reverse=True)[:KERNELS]
        ],
    }


def peer(job: dict[str, Any]) -> dict[str, Any]:
    """The same training by Hugging Face's Trainer with peft's LoRA of the same budget, compiled alike."""
    import peft
    import transformers

    device = torch.device(job["device"])
    warm_up, timed = (2, 2) if job["toy"] else (WARM_UP, job.get("timed", TIMED))
    sizes = SIZES[job["sizes"]]
    model = make_model(job["sizes"], job["row_tokens"], device)
    rank = sketch(job["sizes"], "lora", job["row_tokens"])[1].width
    targets = ["gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    rows = random_rows(8 * job["rows"], job["row_tokens"], sizes["vocabulary"])
    tokens = [torch.from_numpy(rows.tokens(range(i, i + 1))[0, :-1]) for i in range(len(rows))]
    ends: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize(device)
            ends.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=str(Path(folder) / "peer"),
            per_device_train_batch_size=job["rows"],
            max_steps=warm_up + timed,
            learning_rate=5e-5,
            lr_scheduler_type="cosine",
            bf16=compute_dtype(device) == torch.bfloat16,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            use_cpu=device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            torch_compile=job["compile"],
        )
        data = [{"input_ids": row_T, "labels": row_T} for row_T in tokens]
        started = time.perf_counter()
        transformers.Trainer(model=model, args=options, train_dataset=data, callbacks=[Clock()]).train()
    spent = [after - before for before, after in zip(ends[warm_up - 1 :], ends[warm_up:], strict=False)]
    tokens_a_step = job["rows"] * job["row_tokens"]
    return {
        "tokens_per_s": tokens_a_step / statistics.median(spent),
        "peak_mib": peak_memory_mib(device),
        "warm_up_s": ends[warm_up - 1] - started,
        "rank": rank,
    }


def seconds(compute: Callable[[], Any], device: torch.device, rounds: int = 10) -> float:
    """Of one call, on average, after three that do not count."""
    for _ in range(3):
        compute()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(rounds):
        compute()
    synchronize(device)
    return (time.perf_counter() - started) / rounds


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
