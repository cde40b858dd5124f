"""Checkpoints from which a killed training goes on: safetensors files, written whole; the last two are kept."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from models.extend import load_trainable, trainable_state
from models.saving import saving
from pipeline.common.files import atomic
from train.distributed import laid_out_as, rank, whole

KEPT = 2
MOMENTS = ("exp_avg", "exp_avg_sq")

log = logging.getLogger(__name__)


@dataclass
class State:
    """What a checkpoint holds besides weights and optimizer: steps done, metrics so far, seconds spent.

    cpu_seconds are those of all cores and processes. alpha is None until it is known (`alpha: auto`).
    """

    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    alpha: float | None = None
    cpu_seconds: float = 0.0


@contextmanager
def saver(
    folder: str | Path, identity: str, model: Any, optimizer: Optimizer, beside: bool
) -> Iterator[tuple[Callable[[State], None], Callable[[], None]]]:
    """Yields save(state), and wait() for what it writes. All ranks must call save(); the first one writes.

    What it writes is `step-000050.safetensors` in `folder`, of which all but the last KEPT up to it are deleted.

    With `beside`, for a GPU, a thread writes copies while training goes on. Each save, and leaving, waits for the
    one before and raises its error; leaving by an exception waits, too.
    """
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[Path]] = []

        def wait() -> None:
            while pending:
                pending.pop().result()

        def save(state: State) -> None:
            wait()
            write = _snapshot(folder, identity, model, optimizer, state, beside)
            if beside:
                pending.append(pool.submit(write))
            else:
                write()

        yield save, wait
        wait()


def _snapshot(
    folder: str | Path, identity: str, model: Any, optimizer: Optimizer, state: State, copied: bool
) -> Callable[[], Path]:
    """What writes the checkpoint; if `copied`, of weights as they are now, else as they are when it is called.

    From a GPU they come into pinned memory behind what it computes, and nothing waits for them here.
    """
    path = Path(folder) / f"step-{state.step:06d}.safetensors"
    found = {f"weight.{name}": weight for name, weight in trainable_state(model).items()}
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                found[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    tensors = {}
    for name, tensor in found.items():
        gathered = whole(tensor).contiguous()
        if rank() == 0:
            tensors[name] = gathered.to("cpu", non_blocking=copied, copy=copied)
    if rank() > 0:
        return lambda: path
    arrived = torch.cuda.Event() if copied and any(tensor.is_cuda for tensor in found.values()) else None
    if arrived is not None:
        arrived.record()
    standing = {name: getattr(state, name) for name in ("step", "seconds", "alpha", "cpu_seconds")}
    metrics = list(state.metrics)

    def write() -> Path:
        if arrived is not None:
            arrived.synchronize()
        _write(path, tensors, {"identity": identity, **standing}, metrics)
        return path

    return write


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    # As a tensor, since a header of safetensors may have 100 MB only: some 400,000 steps. Line by line, so that
    # another thread may go on in between.
    text = f"[{', '.join(json.dumps(line) for line in metrics)}]"
    tensors = {**tensors, "metrics": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}
    header = {**header, "checksum": _checksum(tensors)}
    with atomic(path) as part, saving(part.parent):
        save_file(tensors, part, metadata={"header": json.dumps(header)})
    # Those of later steps are of other options: beside them this one would not be among the newest.
    for old in [other for other in _newest_first(path.parent) if _order(other) <= _order(path)][KEPT:]:
        old.unlink(missing_ok=True)  # another process that trains the same may delete it too


def resume(folder: str | Path, identity: str, model: Any, optimizer: Optimizer) -> State:
    """Load the newest undamaged checkpoint with this `identity` into model and optimizer.

    Returns the state to go on from: a fresh one where there is no such checkpoint. A damaged file is passed
    over with a warning, one of other options or inputs with a line in the log.
    """
    for path in _newest_first(folder):
        try:
            header, tensors = _read(path)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged (%s); using the checkpoint before it", path, error)
            continue
        if header["identity"] != identity:
            log.info("%s is of other options or inputs; ignored", path)
            continue
        _restore(model, optimizer, tensors, header["step"])
        log.info("going on from %s", path)
        metrics = json.loads(tensors["metrics"].numpy().tobytes())
        return State(header["step"], metrics, header["seconds"], header["alpha"], header.get("cpu_seconds", 0.0))
    return State()


def newest(folder: str | Path) -> Path | None:
    """The newest checkpoint file, if any."""
    return next(iter(_newest_first(folder)), None)


def _newest_first(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).glob("step-*.safetensors"), key=_order, reverse=True)


def _order(path: Path) -> tuple[int, str]:
    """By step: a million has seven digits."""
    return len(path.name), path.name


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["header"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if _checksum(tensors) != header["checksum"]:
        raise ValueError("checksum differs")
    return header, tensors


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, total)
    return total


def _restore(model: Any, optimizer: Optimizer, tensors: dict[str, Tensor], step: int) -> None:
    own = dict(model.named_parameters())
    weights = {name.removeprefix("weight."): w for name, w in tensors.items() if name.startswith("weight.")}
    load_trainable(model, {name: laid_out_as(w, own[name]) if name in own else w for name, w in weights.items()})
    for name, parameter in own.items():
        if f"exp_avg.{name}" not in tensors:
            continue
        moments = {moment: laid_out_as(tensors[f"{moment}.{name}"], parameter) for moment in MOMENTS}
        # A fused AdamW keeps its step beside the weights.
        steps = torch.tensor(float(step), device=parameter.device)
        optimizer.state[parameter] = {"step": steps, **moments}
