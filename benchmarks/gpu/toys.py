"""Random models, rows and training jobs, made in memory: they cost what real ones do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import backbone
from models.backbone import attention_on, compute_dtype, create_llama
from models.extend import Extension
from train.data.packing import write_rows
from train.data.rows import Rows, open_rows
from train.runs.load import extend_for
from train.runs.options import Run
from train.trainer.loop import TrainingJob, set_up_layers

SIZES = {
    "135M": {"hidden_size": 576, "layers": 30, "heads": 9, "ffn_size": 1536, "vocabulary": 49152},
    "1B": {"hidden_size": 2048, "layers": 16, "heads": 32, "ffn_size": 8192, "vocabulary": 128256},
    "1.4M": {"hidden_size": 128, "layers": 4, "heads": 2, "ffn_size": 384, "vocabulary": 4096},
    "tiny": {"hidden_size": 64, "layers": 3, "heads": 2, "ffn_size": 192, "vocabulary": 512},
}
TOY = {"sizes": "tiny", "rows": 4, "row_tokens": 64}


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """fp32 everywhere, or what each device computes in by itself."""
    before, backbone.COMPUTE = backbone.COMPUTE, dtype
    try:
        yield
    finally:
        backbone.COMPUTE = before


def random_rows(
    count: int, row_tokens: int, vocabulary: int, seed: int = 0, path: Path | None = None, digest: str = ""
) -> Rows:
    """Rows of random tokens, every second of which follows from the one before it, so that there is something to
    learn; documents of a third of a row. In the file `path`, or in one that is gone again but for its mapping.
    """
    random = np.random.default_rng(seed)
    ids = random.integers(1, vocabulary, count * row_tokens + 1)
    ids[1::2] = (ids[:-1:2] * (7 + seed)) % (vocabulary - 1) + 1
    ids = ids.astype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    ids[:: row_tokens // 3] = 0
    about = {"row_tokens": row_tokens, "vocabulary": vocabulary, "special_ids": [0], "separator": 0}
    about |= {"tokenizer_sha256": digest, "domain": "random"}
    ones = np.ones(len(ids), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        path = path or Path(folder) / "rows.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(str(path), ids, ones, ones, row_tokens, None, about)
        return open_rows(str(path))


def make_model(sizes: str, row_tokens: int, device: torch.device) -> Any:
    """A random Llama in what the device computes in, made there: a billion draws on a CPU take half a minute."""
    attention = attention_on(device)
    # Where results are compared, weights are drawn on the CPU, the same for every device.
    with torch.device("cpu" if sizes == "tiny" else device):
        model = create_llama(**SIZES[sizes], row_tokens=row_tokens, attention=attention)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(compute_dtype(device))
    return model.to(device)


def sketch(sizes: str, method: str, row_tokens: int) -> tuple[Any, Extension]:
    """The extended model on the `meta` device, without weights: what it costs."""
    with torch.device("meta"):
        model = create_llama(**SIZES[sizes], row_tokens=row_tokens)
        return model, extend_for(model, Run(method=method, learning_rate=1e-3))


def make_training(job: dict[str, Any], folder: str, **changes: Any) -> TrainingJob:
    """A training of `job`: sizes, rows and row_tokens of a step (one micro-batch), method, device, compile."""
    device = torch.device(job["device"])
    sizes = SIZES[job["sizes"]]
    given: dict[str, Any] = {
        "learning_rate": 1e-3,
        "method": job["method"],
        "alpha": 10.0,
        "old_rate": 0.25,
        "steps": 40,
        "batch_rows": job["rows"],
        "micro_batch_rows": job["rows"],
        "evaluate_every": 1000,
        "evaluate_rows": 4,
        "checkpoint_every": 1000,
        "compile": job.get("compile", False),
        "mask_documents": job.get("mask_documents", False),
        "device": job["device"],
    }
    options = Run(**(given | changes))
    model = make_model(job["sizes"], job["row_tokens"], device)
    extension = extend_for(model, options)
    old, new = (random_rows(8 * job["rows"], job["row_tokens"], sizes["vocabulary"], seed) for seed in (0, 4))
    training = TrainingJob(
        title=job["method"],
        model=model,
        options=options,
        old=old,
        new=new,
        validations={"new": new},
        checkpoints=folder,
        identity="",
        device=device,
        context=extension.context,
    )
    set_up_layers(training)
    return training
