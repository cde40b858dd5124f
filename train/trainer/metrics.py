"""Metrics of a training: lines of JSON, the same for TensorBoard, and means of what the blocks measure."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.common.files import naming_full_disk

Line = dict[str, Any]

log = logging.getLogger(__name__)


@contextmanager
def metrics_log(folder: str | Path, lines: list[Line]) -> Iterator[Callable[[Line], None]]:
    """Write metrics.jsonl and TensorBoard's events in `folder`, `lines` first; yields what adds a line.

    Without tensorboardX there are no events, and a line in the log says so.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink(missing_ok=True)
    with (
        naming_full_disk(folder),
        (folder / "metrics.jsonl").open("w", encoding="utf-8", buffering=1) as file,
        _events(folder) as add_events,
    ):

        def add(line: Line) -> None:
            file.write(json.dumps(line) + "\n")
            add_events(line)

        for line in lines:
            add(line)
        yield add


@contextmanager
def _events(folder: Path) -> Iterator[Callable[[Line], None]]:
    """Yields what adds the numbers of a line to TensorBoard's file in `folder`.

    Written as they come: the usual writer does it in a thread, and waits for it for ever once the disk is full.
    """
    if not _has_tensorboard():
        yield lambda line: None
        return
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    with closing(EventsWriter(str(folder / "events"))) as events:

        def add(line: Line) -> None:
            for name, value in scalars(line):
                events.write_event(Event(wall_time=time.time(), step=line["step"], summary=scalar(name, value)))

        yield add


@cache
def _has_tensorboard() -> bool:
    if importlib.util.find_spec("tensorboardX") is None:
        log.warning("tensorboardX is not installed: no curves for TensorBoard; metrics.jsonl has every number")
        return False
    return True


def scalars(line: Line) -> Iterator[tuple[str, float]]:
    """The numbers of a line by their names in TensorBoard: `train/loss`, and of an evaluation `bpb/fr`."""
    for name, value in line.items():
        if name == "evaluation":
            for domain, measures in value.items():
                numbers = ((name, x) for name, x in measures.items() if isinstance(x, float))
                yield from ((f"{measure}/{domain}", number) for measure, number in numbers)
        elif name != "step":
            yield f"train/{name}", value


def summarise(
    measured: Sequence[float], old: int, new: int, layers: int, size: int, with_l1: bool
) -> dict[str, float]:
    """Means over tokens and layers of the step, all ranks together: l1 (also over width), gate_old, gate_new.

    With an l1 loss, lm_gradient and l1_gradient are the norms of the gradients of both losses at the blocks'
    outputs on old tokens, all layers together, and l1_ratio is the second over the first. Both losses are there
    means over old tokens: the share of old rows in the mixture changes neither. `measured` is the
    gradient of a probe (models/local_losses.py), empty where nothing was measured; `old` and `new` count the
    step's tokens, `size` is D.

    >>> summarise([8.0, 1.0, 4.0, 9.0, 4.0], old=2, new=4, layers=1, size=2, with_l1=True)
    {'l1': 2.0, 'gate_old': 0.5, 'gate_new': 1.0, 'lm_gradient': 6.0, 'l1_gradient': 3.0, 'l1_ratio': 0.5}
    """
    if not measured:
        return {}
    absolute, gate_old, gate_new, *squares = measured
    measures: dict[str, float] = {}
    if old:
        measures |= {"l1": absolute / (old * layers * size), "gate_old": gate_old / (old * layers)}
    if new:
        measures["gate_new"] = gate_new / (new * layers)
    if old and with_l1:
        l1, lm = map(math.sqrt, squares)
        lm *= (old + new) / old
        measures |= {"lm_gradient": lm, "l1_gradient": l1, "l1_ratio": l1 / lm if lm else 0.0}
    return measures
