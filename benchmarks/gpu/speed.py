"""Speed on a GPU: the machine's own limits, the loss, and whole steps beside Hugging Face's Trainer with peft."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.toys import SIZES, TOY, make_model, make_training, random_rows
from models.cost import flops_per_token, peak_flops
from models.loss import chunked_cross_entropy
from train.trainer.checkpoint import State
from train.trainer.loop import take_step
from train.trainer.mixture import read_batch
from train.trainer.optimizer import make_optimizer
from train.trainer.stages import peak_memory_mib

WARM_UP, TIMED, PROFILED = 12, 20, 3
KERNELS = 14


def machine(job: dict[str, Any]) -> dict[str, Any]:
    """Versions, the card, and what it reaches: copying, a product, and attention by each kernel."""
    device = torch.device(job["device"])
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "numpy")}
    facts: dict[str, Any] = {"python": platform.python_version(), "versions": versions}
    size, rows = (256, 2) if job["toy"] else (8192, 16)
    if device.type == "cuda":
        facts |= {"card": torch.cuda.get_device_name(), "gib": torch.cuda.mem_get_info()[1] / 2**30}
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    facts["product_tflops"] = 2 * size**3 / seconds(lambda: a @ b, device) / 1e12
    big = torch.empty(2**22 if job["toy"] else 2**30, dtype=torch.uint8, device=device)
    facts["copy_gb_per_s"] = 2 * len(big) / seconds(lambda: big.clone(), device) / 1e9
    shape = (rows, 9, 64 if job["toy"] else 2048, 64)
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        backend = getattr(torch.nn.attention.SDPBackend, name)

        def attend(backend: Any = backend) -> None:
            with torch.nn.attention.sdpa_kernel(backend):
                functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

        try:
            facts[f"{name.lower()}_ms"] = 1e3 * seconds(attend, device)
        except RuntimeError as error:
            facts[f"{name.lower()}_ms"] = str(error).splitlines()[0]
    return facts


def loss(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds and MiB of the loss and its gradients, of 32,768 tokens: ours in chunks, and torch's own."""
    device, results = torch.device(job["device"]), {}
    for name, (size, vocabulary, tokens) in {
        "135M": (576, 49152, 32768),
        "1B": (2048, 128256, 16384),
    }.items():
        if job["toy"]:
            size, vocabulary, tokens = 16, 128, 512
        for frozen in (True, False):
            hidden_ND = torch.randn(tokens, size, device=device, dtype=torch.bfloat16, requires_grad=True)
            head_VD = torch.randn(vocabulary, size, device=device, dtype=torch.bfloat16).mul_(0.02)
            head_VD.requires_grad_(not frozen)
            target_N = torch.randint(vocabulary, (tokens,), device=device)

            def whole(h: Any = hidden_ND, w: Any = head_VD, t: Any = target_N) -> None:
                functional.cross_entropy((h @ w.T).float(), t, reduction="sum").backward()

            def ours(chunk: int, h: Any = hidden_ND, w: Any = head_VD, t: Any = target_N) -> None:
                chunked_cross_entropy(h, w, t, chunk=chunk).backward()

            def eager(h: Any = hidden_ND, w: Any = head_VD, t: Any = target_N) -> None:
                with torch.compiler.set_stance("force_eager"):
                    chunked_cross_entropy(h, w, t, chunk=2048).backward()

            contenders: dict[str, Callable[[], None]] = {
                **{f"ours, chunks of {chunk}": (lambda c=chunk, o=ours: o(c)) for chunk in (2048, 4096, 8192)},
                "ours, uncompiled": eager,
                "whole logits": whole,
            }
            if hasattr(functional, "linear_cross_entropy"):
                contenders["torch.nn.functional.linear_cross_entropy"] = (
                    lambda h=hidden_ND, w=head_VD, t=target_N: functional.linear_cross_entropy(
                        h, w, t, reduction="sum"
                    ).backward()
                )
            for contender, compute in contenders.items():
                key = f"{name}, {'frozen' if frozen else 'trained'} head: {contender}"
                try:
                    if device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    spent = seconds(compute, device)
                    results[key] = {"ms": 1e3 * spent, "MiB": peak_memory_mib(device)}
                except (RuntimeError, TypeError, ValueError) as error:
                    results[key] = {"failed": str(error).splitlines()[0][:300]}
                hidden_ND.grad = head_VD.grad = None
    return results


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of the trainer itself, from rows to the optimizer: tokens/s, MFU, memory, graphs, the top kernels."""
    job = job | (TOY if job["toy"] else {})
    device = torch.device(job["device"])
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(bool(job.get("cudnn")))
    with TemporaryDirectory() as folder:
        training = make_training(job, folder)
        optimizer, state = make_optimizer(training.model, training.options), State(alpha=training.options.alpha)
        warm_up, timed = (2, 2) if job["toy"] else (WARM_UP, TIMED)
        spent, measured = [], []

        def step() -> float:
            started = time.perf_counter()
            batch = read_batch(state.step, training.options, training.old, training.new)
            take_step(training, optimizer, batch, state)  # reads the loss, and so waits for the GPU
            synchronize(device)
            state.step += 1
            return time.perf_counter() - started

        started = time.perf_counter()
        for _ in range(warm_up):
            step()
        warming = time.perf_counter() - started
        for _ in range(timed):
            kind = measured if state.step % 10 == 0 else spent
            kind.append(step())
        tokens = job["rows"] * job["row_tokens"]
        middle = statistics.median(spent)
        flops = flops_per_token(training.model, job["row_tokens"])
        peak = peak_flops(device)
        result = {
            "tokens_per_s": tokens / middle,
            "tokens_per_s_with_measured_steps": timed * tokens / (sum(spent) + sum(measured)),
            "mfu": tokens / middle * flops / peak if peak else None,
            "gflops_per_token": flops / 1e9,
            "peak_mib": peak_memory_mib(device),
            "warm_up_s": warming,
            "graphs": graphs(),
            "width": next(
                (
                    m.down_proj.in_features
                    for m in training.model.modules()
                    if hasattr(m, "up_proj") and hasattr(m, "context")
                ),
                None,
            ),
        }
        if device.type == "cuda":
            result["profile"] = profile(step)
        return result


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

    from models.backbone import unique_parameters

    job = job | (TOY if job["toy"] else {})
    device = torch.device(job["device"])
    warm_up, timed = (2, 2) if job["toy"] else (WARM_UP, TIMED)
    sizes = SIZES[job["sizes"]]
    model = make_model(job["sizes"], job["row_tokens"], device)
    per_rank = 3 * (sizes["hidden_size"] + sizes["ffn_size"]) * sizes["layers"]
    rank = round(0.2 * unique_parameters(model) / per_rank)
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
            bf16=True,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            use_cpu=device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            torch_compile=job["compile"] and not job["toy"],
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
