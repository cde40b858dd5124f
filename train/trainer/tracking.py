"""The numbers that TensorBoard gets, told to an experiment tracker too: trackio, or Weights & Biases.

Both have one interface. Nothing leaves the machine unless the environment asks for it in the tracker's own words
(WANDB_MODE=online, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL), and no error of a tracker ends a training.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.common.config import to_data
from pipeline.common.errors import StageError, one_line
from pipeline.common.shown import data_without_secrets
from train.runs.options import Training
from train.trainer.metrics import Line, scalars

log = logging.getLogger(__name__)


@contextmanager
def tracker(options: Training, name: str, lines: list[Line]) -> Iterator[Callable[[Line], None]]:
    """Yields what adds a line of the metrics to the run `name` of options.track; a run of that name goes on.

    `lines`, those of an earlier part of the training, are added where the tracker has no such run. After its first
    error, which is logged, nothing more is told to the tracker.
    """
    run: Any = None

    def attempt(action: Callable[[], Any]) -> Any:
        nonlocal run
        try:
            return action()
        except Exception as error:  # whatever it is: a training goes on without a tracker
            run = None
            log.warning("%s is told nothing more: %s", options.track, one_line(error))
            return None

    def add(line: Line) -> None:
        if run is not None:
            attempt(lambda: run.log(dict(scalars(line)), step=line["step"]))

    if options.track:
        run, is_new = attempt(lambda: _start(options, name)) or (None, False)
        for line in lines if is_new else []:
            add(line)
    try:
        yield add
    finally:
        if run is not None:
            attempt(lambda: run.finish())


def _start(options: Training, name: str) -> tuple[Any, bool]:
    """The run in the tracker, and whether it has no lines yet."""
    try:
        tool = importlib.import_module(str(options.track))
    except ImportError as error:
        raise StageError(f"it is not installed ({error}); pip install {options.track}") from None
    about = {"project": options.track_project, "name": name, "config": data_without_secrets(to_data(options))}
    if options.track == "trackio":
        about |= {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        try:
            return tool.init(**about, resume="must"), False
        except ValueError:  # there is none yet
            return tool.init(**about, resume="never"), True
    # Its id makes it the same run there. Not of its console, code or machine: it is told the numbers alone.
    settings = tool.Settings(console="off", disable_git=True, save_code=False, silent=True,
                               x_disable_meta=True, x_disable_stats=True)  # fmt: skip
    run = tool.init(
        **about, id=name, resume="allow", mode=os.environ.get("WANDB_MODE", "offline"), settings=settings
    )
    # What is written offline, to be synced later, is whole only if each part has all lines.
    return run, not run.resumed
