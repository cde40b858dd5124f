"""Several processes as one trainer: those of `gpus` (train/ranks.py), or those of torchrun.

Each rank has a part of every step's rows. What it computes is a sum, never a mean, so that adding over the
ranks once a step gives what one process would have found: the gradients after the last micro-batch, and with
them the loss and the statistics. This is data parallelism in one line; DistributedDataParallel would divide by
the number of ranks, which the blocks' local losses (models/block.py) do not bear, and overlapping its traffic
gains little where a fifth of the weights is trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.common.errors import StageError
from train.ranks import MEETING


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes of the training, if there are some, and leave them at the end.

    Not where an exception ends it: what failed is to be told before the others find their connections closed.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store = dist.FileStore(os.environ[MEETING], count) if MEETING in os.environ else None
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=int(os.environ["RANK"]), world_size=count)
    yield
    dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def add_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Each tensor becomes the sum of all ranks' own, in place."""
    if dist.is_initialized():
        for waiting in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            waiting.wait()


def add_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Each gradient becomes the sum of all ranks' own; those of sharded weights are that already."""
    add_over_ranks(weight.grad for weight in weights if weight.grad is not None and not is_sharded(weight))


# Sharding -----------------------------------------------------------------------------------------


def shard(model: Any, layers: list[Any], device: torch.device) -> None:
    """Spread the weights of the decoder layers over the ranks (FSDP2); a layer is whole while it computes.

    Embeddings and head stay whole on every rank: the loss is made from the head's weights themselves.
    Raises StageError where there is only one process.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not dist.is_initialized():
        raise StageError("shard: there is one process only; set gpus to several, or shard to false")
    mesh = dist.device_mesh.init_device_mesh(device.type, (world(),))
    inside = {id(weight) for layer in layers for weight in layer.parameters()}
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    rest = {weight for weight in model.parameters() if id(weight) not in inside and not is_sharded(weight)}
    fully_shard(model.base_model, mesh=mesh, ignored_params=rest)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums, as everywhere here
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    model.to(device)


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # its class takes a second to import


def whole(tensor: Any) -> Tensor:
    """The tensor itself, gathered from all ranks if it is sharded; then all ranks must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def laid_out_as(tensor: Tensor, weight: Any) -> Tensor:
    """The whole `tensor`, which every rank holds, on the device and in the shards of `weight`."""
    tensor = tensor.to(weight.device)
    if not is_sharded(weight):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)


def gathered(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, whole, on the CPU of rank 0; the other ranks, which must call this too, get none."""
    found = {}
    for name, weight in weights.items():
        tensor = whole(weight)
        if rank() == 0:
            found[name] = tensor.cpu().contiguous()
    return found


def clip_gradients(weights: list[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients down to the norm `largest` (0: leave them); returns the norm, over all ranks' shards."""
    groups = [[w for w in weights if w.grad is not None and is_sharded(w) is kind] for kind in (False, True)]
    norms = [whole(torch.nn.utils.get_total_norm([w.grad for w in g if w.grad is not None])) for g in groups if g]
    norm = torch.stack(norms).norm() if len(norms) > 1 else norms[0]
    if largest:
        for group in filter(None, groups):
            torch.nn.utils.clip_grads_with_norm_(group, largest, norm)
    return norm
