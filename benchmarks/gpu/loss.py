"""The loss over a large vocabulary and its gradients: ours in chunks, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.speed import seconds
from models.loss import chunked_cross_entropy
from train.trainer.stages import peak_memory_mib


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
