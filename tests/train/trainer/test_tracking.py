"""What is told to trackio and wandb; their stand-ins keep what they are told, as the real ones were seen to do."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from train.runs.options import Run
from train.trainer.tracking import tracker

FIRST = {"step": 0, "evaluation": {"fr": {"bpb": 3.5, "documents": {"count": 1}}}}
SECOND = {"step": 1, "loss": 2.0, "gate_old": 0.25}
THIRD = {"step": 2, "loss": 1.5}
TOLD = [({"bpb/fr": 3.5}, 0), ({"train/loss": 2.0, "train/gate_old": 0.25}, 1), ({"train/loss": 1.5}, 2)]


class Tracker:
    """A module like trackio or wandb, whose runs stay; `broken` is the method that raises."""

    def __init__(self, online: bool, broken: str = "") -> None:
        self.online, self.broken = online, broken
        self.runs: dict[str, list[tuple[dict[str, float], int]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.finished = 0

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **asked: Any) -> Any:
        self._may_break("init")
        self.asked.append(asked)
        known = asked["name"] in self.runs and self.online
        if asked["resume"] == "must" and not known:
            raise ValueError("no such run")
        self.runs[asked["name"]] = lines = self.runs[asked["name"]] if known else []

        def add(numbers: dict[str, float], step: int) -> None:
            self._may_break("log")
            lines.append((numbers, step))

        return SimpleNamespace(log=add, finish=self._finish, resumed=known)

    def _finish(self) -> None:
        self._may_break("finish")
        self.finished += 1

    def _may_break(self, method: str) -> None:
        if method == self.broken:
            raise RuntimeError(f"no network\n{method}")


def tracked(monkeypatch: pytest.MonkeyPatch, name: str, online: bool, broken: str = "") -> tuple[Tracker, Run]:
    tool = Tracker(online, broken)
    monkeypatch.setitem(sys.modules, name, tool)
    return tool, Run(learning_rate=1e-3, track=name, track_project="breton")


@pytest.mark.parametrize(("name", "online"), [("trackio", True), ("wandb", True), ("wandb", False)])
def test_a_training_that_goes_on_is_one_run_with_each_line_of_its_past_once(monkeypatch, name, online):
    tool, options = tracked(monkeypatch, name, online)
    with tracker(options, "neutral-1", [FIRST]) as track:
        track(SECOND)
    with tracker(options, "neutral-1", [FIRST, SECOND]) as track:
        track(THIRD)
    assert tool.runs == {"neutral-1": TOLD}
    assert tool.finished == 2
    assert {asked["project"] for asked in tool.asked} == {"breton"}
    assert tool.asked[0]["config"]["learning_rate"] == 1e-3


@pytest.mark.parametrize(("environment", "mode"), [({}, "offline"), ({"WANDB_MODE": "online"}, "online")])
def test_wandb_is_offline_unless_the_environment_says_so_and_told_the_numbers_alone(
    monkeypatch, environment, mode
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    tool, options = tracked(monkeypatch, "wandb", online=True)
    with tracker(options, "neutral-1", []):
        pass
    (asked,) = tool.asked
    assert (asked["mode"], asked["id"], asked["resume"]) == (mode, "neutral-1", "allow")
    assert asked["settings"]["console"] == "off" and asked["settings"]["x_disable_meta"]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_an_error_of_a_tracker_is_logged_once_and_ends_nothing(monkeypatch, caplog, name, broken):
    _, options = tracked(monkeypatch, name, online=True, broken=broken)
    with caplog.at_level(logging.WARNING), tracker(options, "neutral-1", [FIRST, SECOND]) as track:
        track(THIRD)
    assert [f"{name} is told nothing more" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_of_with_what_to_install(monkeypatch, caplog, name):
    monkeypatch.setitem(sys.modules, name, None)
    with tracker(Run(learning_rate=1e-3, track=name), "neutral-1", [FIRST]) as track:
        track(SECOND)
    assert [f"pip install {name}" in record.getMessage() for record in caplog.records] == [True]


def test_an_error_of_the_training_is_its_own_and_its_run_is_ended(monkeypatch):
    tool, options = tracked(monkeypatch, "trackio", online=True)
    with pytest.raises(KeyError, match="ours"), tracker(options, "neutral-1", []):
        raise KeyError("ours")
    assert tool.finished == 1


def test_without_a_tracker_none_is_imported(monkeypatch):
    for name in ("trackio", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with tracker(Run(learning_rate=1e-3), "neutral-1", [FIRST]) as track:
        track(SECOND)
    assert not {"trackio", "wandb"} & sys.modules.keys()
