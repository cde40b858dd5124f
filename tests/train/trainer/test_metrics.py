import json
import struct
from pathlib import Path

import pytest

from train.trainer.metrics import metrics_log

events = pytest.importorskip("tensorboardX.proto.event_pb2")

LINES = [
    {"step": 0, "evaluation": {"fr": {"bpb": 3.5, "nats_per_token": 4.0, "documents": {"count": 1}}}},
    {"step": 1, "loss": 2.0, "gate_old": 0.25},
]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard would show: its files are records of length, checksum, event, checksum."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, place, scalars = path.read_bytes(), 0, []
    while place < len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        event = events.Event.FromString(content[place + 12 : place + 12 + size])
        scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        place += 16 + size
    return scalars


def test_a_log_begun_again_has_each_line_once(tmp_path: Path) -> None:
    with metrics_log(tmp_path, LINES) as tell:
        tell({"step": 2, "loss": 1.5})
        # A reader sees a line as soon as it is told.
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    with metrics_log(tmp_path, LINES) as tell:
        tell({"step": 2, "loss": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [*LINES, {"step": 2, "loss": 1.0}]
    assert scalars(tmp_path) == [
        (0, "bpb/fr", 3.5),
        (0, "nats_per_token/fr", 4.0),
        (1, "train/loss", 2.0),
        (1, "train/gate_old", 0.25),
        (2, "train/loss", 1.0),
    ]
