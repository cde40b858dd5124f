"""Is every tensor on the device that it must be on? Seen without a GPU, by torch's fake tensors of CUDA.

A fake tensor has a shape, a type and a device, but no numbers; an operation on tensors of two devices fails as it
would on a GPU, in the backward pass too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LENGTH, VOCABULARY, write_rows
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import torch._dynamo  # isort: skip  # before anything is replaced

from models import loss
from models.backbone import attention_on, create_llama
from models.extend import METHODS
from train.data.rows import open_rows
from train.evaluation.change import measure_change
from train.runs.load import extend_for
from train.runs.options import Run
from train.trainer.checkpoint import State
from train.trainer.loop import TrainingJob, evaluate, find_alpha, take_step
from train.trainer.mixture import read_batch
from train.trainer.optimizer import make_optimizer

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: its own tests show more")
CUDA = torch.device("cuda", 0)
SIZES = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24, "vocabulary": VOCABULARY}
ABOUT = {"separator": 0, "unlearned_ids": [0]}


class Fakes(TorchDispatchMode):
    """A number that is read from a tensor is 1; what C++ makes beside a tensor of the GPU is on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten.addmm.dtype_out:  # torch 2.11's fakes take its type for a factor
            return torch.ops.aten.addmm.out(args[0], args[1].float(), args[2].float(), out=kwargs["out"])
        if kwargs.get("device") == torch.device("meta"):
            kwargs = kwargs | {"device": CUDA}
        return func(*args, **kwargs)


class Autocast(TorchFunctionMode):
    """Products in the autocast's type: torch's own casts see the fakes as what C++ takes them for."""

    PRODUCTS = (functional.linear, functional.scaled_dot_product_attention, torch.matmul, Tensor.matmul)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.PRODUCTS and torch.is_autocast_enabled("cuda"):
            args = [x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
        return func(*args, **(kwargs or {}))


def to_numpy(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert a tensor on {tensor.device} to numpy")
    return np.ones(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make = torch.Tensor._make_subclass

    def hidden_from_cpp(cls: Any, data: Tensor, requires_grad: bool = False, **keywords: Any) -> Any:
        """C++ takes the fake for the `meta` tensor that it is; else autograd would look for the GPU's streams."""
        keys = keywords.get("device_for_backend_keys")
        return make(cls, data, requires_grad, **keywords | {"dispatch_device": not keys or keys.type != "cuda"})

    monkeypatch.setattr(torch.Tensor, "_make_subclass", staticmethod(hidden_from_cpp))
    monkeypatch.setattr(FakeTensor, "is_cuda", property(lambda x: x.device.type == "cuda"))
    monkeypatch.setattr(FakeTensor, "numpy", to_numpy, raising=False)
    monkeypatch.setattr(FakeTensor, "pin_memory", lambda x: x, raising=False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    # Module.to() exchanges a fake parameter for the new one, and a fake has weak references to itself.
    monkeypatch.setattr(weakref, "getweakrefs", lambda x: [])
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(loss, "_compiled_gradient", lambda: loss.nll_and_gradient)
    with FakeTensorMode(allow_non_fake_inputs=True), Fakes(), Autocast():
        yield


def make_job(folder: Path, method: str, **changes: Any) -> TrainingJob:
    """A training on rows in which documents begin anywhere, in micro-batches of two sizes."""
    random = np.random.default_rng(0)
    files = [
        write_rows(folder / f"{name}.arrow", random.integers(0, VOCABULARY, (4, LENGTH + 1)), name, **ABOUT)
        for name in ("en", "fr")
    ]
    old, new = map(open_rows, files)
    given = {"batch_rows": 3, "micro_batch_rows": 2, "old_rate": 0.5, "steps": 2, "evaluate_rows": 2}
    options = Run(**{"learning_rate": 1e-3, "method": method, "alpha": 1.0} | given | changes)
    model = make_backbone()
    context = extend_for(model, options).context
    return TrainingJob("fake", model, options, old, new, {"fr": new}, str(folder), "", CUDA, context)


def make_backbone() -> Any:
    with CUDA:
        return create_llama(**SIZES, row_tokens=LENGTH, attention=attention_on(CUDA))


def step(job: TrainingJob, number: int) -> dict[str, float]:
    batch = read_batch(number, job.options, job.old, job.new)
    return take_step(job, make_optimizer(job.model, job.options), batch, State(step=number, alpha=1.0))


@pytest.mark.parametrize("method", METHODS)
def test_every_tensor_is_on_the_gpu(method: str, tmp_path: Path, fake_cuda: None) -> None:
    """In a step that is measured, an evaluation, and the comparison with the backbone."""
    job = make_job(tmp_path, method)
    assert ("gate_new" in step(job, 0)) == (method in ("adapter", "neutral"))
    trained = [weight for weight in job.model.parameters() if weight.requires_grad]
    assert {weight.grad.device for weight in trained} == {CUDA}
    assert "fr" in evaluate(job, 0)["evaluation"]
    assert measure_change(make_backbone(), job.model, job.new, CUDA).rows == 4


def test_documents_are_kept_apart_on_the_gpu(tmp_path: Path, fake_cuda: None) -> None:
    """In the search for alpha, and a step that is not measured."""
    job = make_job(tmp_path, "neutral", mask_documents=True, alpha="auto", gate="sigmoid")
    assert find_alpha(job) > 0
    assert "gate_new" not in step(job, 1)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0] + torch.ones(upstream[0].shape)


def weight(job: TrainingJob) -> TrainingJob:
    job.model.model.layers[1].mlp.block.up_proj.to("cpu")
    return job


def batch(job: TrainingJob) -> TrainingJob:
    return replace(job, device=torch.device("cpu"))


def gradient(job: TrainingJob) -> TrainingJob:
    job.model.model.layers[1].mlp.block.register_forward_hook(lambda module, x, out: WrongGradient.apply(out))
    return job


@pytest.mark.parametrize("left", [weight, batch, gradient])
def test_what_is_left_on_the_cpu_is_found(
    left: Callable[[TrainingJob], TrainingJob], tmp_path: Path, fake_cuda: None
) -> None:
    job = left(make_job(tmp_path, "neutral"))
    with pytest.raises(RuntimeError, match=r"devices,? (cuda:0|cpu)"):
        step(job, 1)
