"""Is every model stage right on a GPU? A tiny model is trained and measured there and on the CPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.speed import graphs
from benchmarks.gpu.toys import TOY, computing_in, make_model, make_training, random_rows
from models import backbone
from models.attention import attends_by_documents
from models.block import NeutralBlock
from models.extend import trainable_state
from models.loss import sum_nll
from train.evaluation.bits_per_byte import score_rows
from train.evaluation.change import measure_change
from train.runs.options import METHODS
from train.trainer import loop
from train.trainer.loop import TrainingJob, accumulate, train
from train.trainer.mixture import read_batch

STEPS = 40
# Of losses, the difference; of gradients in bf16, whose rounding alone takes 0.005, a bound for gross errors only.
LOSS_FP32, LOSS_BF16, COSINE_FP32, COSINE_BF16 = 1e-4, 1e-2, 0.9999, 0.98


def check_all(job: dict[str, Any]) -> dict[str, Any]:
    """Each check by name: `ok`, and the numbers it is decided by; one that fails ends none of the others."""
    checks: dict[str, Callable[[], dict[str, Any]]] = {}
    base = {**TOY, "device": job["device"], "rows": 8}
    for method in METHODS:
        checks[f"curve {method}"] = partial(curve, base | {"method": method})
        checks[f"gradients {method}"] = partial(gradients_agree, base | {"method": method})
    neutral = base | {"method": "neutral"}
    checks["gradients, recomputed layers"] = partial(gradients_agree, neutral, activation_checkpointing=True)
    checks["gradients, masked documents"] = partial(masked_documents, neutral)
    checks["gradients, uneven micro-batches"] = partial(gradients_agree, neutral, micro_batch_rows=3)
    checks["identity at the start"] = partial(identity, base)
    checks["local losses"] = partial(local_losses, base)
    checks["resume"] = partial(resume, neutral)
    checks["measures"] = partial(measures, neutral)
    checks["writing"] = partial(writing, neutral)
    if job["device"] == "cuda":
        both = (torch.float32, torch.bfloat16)
        checks["compiled neutral, uneven micro-batches"] = partial(compiled, neutral, both, micro_batch_rows=3)
        checks["compiled neutral, masked documents"] = partial(compiled, neutral, both[1:], mask_documents=True)
        checks["compiled lora"] = partial(compiled, base | {"method": "lora"}, both[:1])
        checks["compiled finetune"] = partial(compiled, base | {"method": "finetune"}, both[:1])
    results = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception as error:
            traceback.print_exc()
            results[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:600]}
    return {"ok": all(one["ok"] for one in results.values()), "checks": results}


def curve(job: dict[str, Any]) -> dict[str, Any]:
    """Losses of STEPS steps, or of the first ones in a rehearsal: in fp32 as on the CPU, in bf16 close to it."""
    steps = 8 if job["device"] == "cpu" else STEPS

    def losses(device: str, dtype: torch.dtype) -> Tensor:
        with computing_in(dtype), TemporaryDirectory() as folder:
            training = make_training(job | {"device": device}, folder, steps=steps)
            return torch.tensor([line["loss"] for line in train(training).metrics if "loss" in line])

    cpu = losses("cpu", torch.float32)
    fp32 = (losses(job["device"], torch.float32) - cpu).abs().max().item()
    bf16 = (losses(job["device"], torch.bfloat16) / cpu - 1).abs().max().item()
    ok = fp32 < LOSS_FP32 and bf16 < LOSS_BF16
    return {"ok": ok, "fp32": fp32, "bf16, relative": bf16, "first": cpu[0].item(), "last": cpu[-1].item()}


def gradients_agree(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The cosine between the gradients there and on the CPU, all weights together, and of the worst weight."""
    with computing_in(torch.float32):
        cpu = gradients(job | {"device": "cpu"}, **{k: v for k, v in changes.items() if k == "mask_documents"})
        fp32 = cosine(gradients(job, **changes), cpu)
    bf16 = cosine(gradients(job, **changes), cpu)
    return {"ok": fp32[0] > COSINE_FP32 and bf16[0] > COSINE_BF16, "fp32": fp32, "bf16": bf16}


def masked_documents(job: dict[str, Any]) -> dict[str, Any]:
    """gradients_agree() where documents are apart: on a GPU, in bf16, by kernels and not by a mask."""
    with TemporaryDirectory() as folder:
        by_kernels = attends_by_documents(make_training(job, folder, mask_documents=True).model)
    found = gradients_agree(job, mask_documents=True)
    return found | {"ok": found["ok"] and by_kernels == (job["device"] == "cuda"), "by kernels": by_kernels}


def compiled(job: dict[str, Any], dtypes: Sequence[torch.dtype], **changes: Any) -> dict[str, Any]:
    """Compiled layers give the gradients of uncompiled ones; how many graphs they are."""
    result: dict[str, Any] = {"ok": True}
    for dtype in dtypes:
        with computing_in(dtype):
            plain = gradients(job, **changes)
            torch._dynamo.utils.counters.clear()
            same = cosine(gradients(job | {"compile": True}, steps_before=2, **changes), plain)
        result["ok"] &= same[0] > (COSINE_FP32 if dtype == torch.float32 else COSINE_BF16) and graphs() > 0
        result[str(dtype)] = {"cosine": same, "graphs": graphs()}
    return result


def gradients(job: dict[str, Any], steps_before: int = 0, **changes: Any) -> dict[str, Tensor]:
    """Of one step with old rows, of weights moved at random, so that all of them have a gradient."""
    with TemporaryDirectory() as folder:
        training = make_training(job, folder, **changes)
        shake(training)
        training.model.train()
        for step in range(steps_before):  # other numbers of old rows: what is compiled must serve them too
            batch = read_batch(step + 1, replace(training.options, old_rate=0.4), training.old, training.new)
            accumulate(training, batch, 10.0, measure=False)
            training.model.zero_grad(set_to_none=True)
        accumulate(training, read_batch(0, training.options, training.old, training.new), 10.0, measure=False)
        named = training.model.named_parameters()
        return {name: weight.grad.float().cpu() for name, weight in named if weight.grad is not None}


def shake(training: TrainingJob) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trainable_state(training.model).values():
            weight += (torch.randn(weight.shape, generator=generator) * 0.02).to(weight)


def cosine(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, float]:
    if ours.keys() != theirs.keys():
        raise ValueError(f"gradients of other weights: {sorted(ours.keys() ^ theirs.keys())[:3]}")

    def between(a: Tensor, b: Tensor) -> float:
        return functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0, eps=1e-30).item()

    whole = between(*(torch.cat([x.flatten() for x in each.values()]) for each in (ours, theirs)))
    return whole, min(between(ours[name], theirs[name]) for name in ours)


def identity(job: dict[str, Any]) -> dict[str, Any]:
    """An extended model gives the backbone's logits, to the bit, before it is trained."""
    device, differences = torch.device(job["device"]), {}
    tokens_BT = torch.randint(1, 500, (4, 64), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad(), TemporaryDirectory() as folder:
        plain = make_model(job["sizes"], job["row_tokens"], device).eval()
        for method in ("lora", "adapter", "neutral"):
            training = make_training(job | {"method": method}, folder)
            with backbone.compute(device):
                ours, theirs = (m.eval()(input_ids=tokens_BT).logits for m in (training.model, plain))
            differences[method] = (ours - theirs).abs().max().item()
    return {"ok": not any(differences.values()), **differences}


def local_losses(job: dict[str, Any]) -> dict[str, Any]:
    """The gradients that the blocks add are those of the loss written down: LM + alpha l1 + beta CE, in fp32."""
    alpha, beta = 10.0, 0.7
    with computing_in(torch.float32), TemporaryDirectory() as folder:
        training = make_training(job | {"method": "neutral"}, folder, gate="sigmoid")
        shake(training)
        batch = read_batch(0, training.options, training.old, training.new)
        tokens_BT1 = torch.from_numpy(batch.tokens_BT1).to(training.device)
        old_B11 = torch.from_numpy(batch.draw.is_old[:, None, None].astype(np.float32)).to(training.device)
        length = training.new.row_tokens
        tokens, old = batch.rows * length, batch.old_rows * length

        def take_gradients() -> dict[str, Tensor]:
            grads = {n: w.grad.cpu() for n, w in training.model.named_parameters() if w.grad is not None}
            training.model.zero_grad(set_to_none=True)
            return grads

        l1 = torch.tensor(alpha / old, device=training.device)
        with training.context.losses(old_B11, l1, beta / tokens):
            (sum_nll(training.model, tokens_BT1) / tokens).backward()
        injected = take_gradients()

        outs, logits = [], []
        blocks = [module for module in training.model.modules() if isinstance(module, NeutralBlock)]
        handles = [b.register_forward_hook(lambda _m, _i, out: outs.append(out)) for b in blocks]
        handles += [b.gate.register_forward_hook(lambda _m, _i, out: logits.append(out)) for b in blocks]
        total = sum_nll(training.model, tokens_BT1) / tokens
        for out_BTD, logit_BT1 in zip(outs, logits, strict=True):
            total = total + alpha * (out_BTD.abs() * old_B11).sum() / (old * len(blocks) * out_BTD.shape[-1])
            target_BT1 = (1 - old_B11).expand_as(logit_BT1)
            entropy = functional.binary_cross_entropy_with_logits(logit_BT1, target_BT1, reduction="sum")
            total = total + beta * entropy / (tokens * len(blocks))
        total.backward()
        for handle in handles:
            handle.remove()
    same = cosine(injected, take_gradients())
    return {"ok": same[1] > COSINE_FP32, "cosine": same}


def resume(job: dict[str, Any]) -> dict[str, Any]:
    """A training that is stopped behind a checkpoint and started again ends in the weights of one that is not."""
    options = {"steps": 12, "checkpoint_every": 5}

    def weights(folder: str) -> Tensor:
        training = make_training(job, folder, **options)
        train(training)
        return torch.cat([weight.flatten().cpu() for weight in trainable_state(training.model).values()])

    with TemporaryDirectory() as folder:
        whole = weights(folder)
    with TemporaryDirectory() as folder:
        again = weights(folder)
    step, stopped = loop.take_step, 8

    def stop(training: TrainingJob, optimizer: Any, batch: Any, state: Any) -> dict[str, float]:
        if state.step == stopped:
            raise KeyboardInterrupt
        return step(training, optimizer, batch, state)

    with TemporaryDirectory() as folder:
        loop.take_step = stop
        try:
            weights(folder)
        except KeyboardInterrupt:
            pass
        finally:
            loop.take_step = step
        resumed = weights(folder)
    differences = [(other - whole).abs().max().item() for other in (again, resumed)]
    return {
        "ok": differences[1] <= max(1e-6, 2 * differences[0]),
        "twice": differences[0],
        "resumed": differences[1],
    }


def measures(job: dict[str, Any]) -> dict[str, Any]:
    """Bits per byte, and the change against the backbone, as on the CPU."""
    rows, by_device = random_rows(16, job["row_tokens"], 512, 7), {}
    for device in ("cpu", job["device"]):
        with computing_in(torch.float32), TemporaryDirectory() as folder:
            training = make_training(job | {"device": device}, folder)
            shake(training)
            model = training.model.eval()
            plain = make_model(job["sizes"], job["row_tokens"], training.device).eval()
            change = measure_change(plain, model, rows, training.device)
            by_device[device] = [
                score_rows(model, rows, 5, training.device)["bpb"],
                change.kl,
                change.agreement,
            ]
    differences = [abs(a - b) for a, b in zip(*by_device.values(), strict=True)] if len(by_device) == 2 else [0.0]
    return {"ok": max(differences) < LOSS_FP32, "bpb, kl, agreement": by_device}


def writing(job: dict[str, Any]) -> dict[str, Any]:
    """Greedy continuations, with their cache, are the CPU's."""
    by_device = {}
    for device in ("cpu", job["device"]):
        with computing_in(torch.float32), TemporaryDirectory() as folder:
            training = make_training(job | {"device": device}, folder)
            shake(training)
            prompt_BT = torch.arange(1, 17, device=training.device).view(2, 8)
            with torch.no_grad():
                out = training.model.eval().generate(
                    prompt_BT,
                    attention_mask=torch.ones_like(prompt_BT),
                    max_new_tokens=30,
                    do_sample=False,
                    pad_token_id=0,
                )
            by_device[device] = out.cpu()
    first, second = by_device["cpu"], by_device[job["device"]]
    return {"ok": torch.equal(first, second), "tokens": first.numel()}
