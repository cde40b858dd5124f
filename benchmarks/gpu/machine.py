"""The machine's own limits: copying, a product, and attention by each kernel."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.speed import seconds


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
