"""Which options of a training decide its weights: only those make it new when they change."""

from __future__ import annotations

from train.runs.options import BackboneTraining, Training

# The weights are the same to the bit.
TRACKING = ("track", "track_project")
WATCHING = ("evaluate_every", "evaluate_rows", "checkpoint_every")
# The weights are the same but for rounding: sums are taken in another order.
ROUNDING = ("device", "gpus", "threads", "compile", "micro_batch_rows", "activation_checkpointing", "shard")


def other_options(options: Training) -> tuple[str, ...]:
    """The options that decide nothing.

    >>> "evaluate_every" in other_options(Training(learning_rate=1e-3))
    True
    """
    return (*(() if stops_early(options) else WATCHING), *TRACKING, *ROUNDING)


def stops_early(options: Training) -> bool:
    """Whether what is measured during the training decides when it ends."""
    return isinstance(options, BackboneTraining) and options.flat_below > 0
