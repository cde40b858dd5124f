"""Graphs of compiled layers: few, the same whatever was compiled before, and never too many in silence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from benchmarks.gpu.speed import graphs
from benchmarks.gpu.toys import TOY, make_training
from train.trainer import loop
from train.trainer.loop import accumulate
from train.trainer.mixture import read_batch

# Of micro-batches of two sizes: the first layer, whose input has no gradient but in finetuning, and the others.
GRAPHS = {"finetune": 2, "lora": 4, "adapter": 4, "neutral": 4}


@pytest.fixture(autouse=True)
def only_traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are found as usual and run as they are: to make machine code of them takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):  # torch's own
        yield
    torch.compiler.reset()


def step(method: str, folder: Path) -> int:
    """How many graphs the layers take in a step of micro-batches of 3 rows and of 2."""
    torch._dynamo.utils.counters.clear()
    job = TOY | {"device": "cpu", "method": method, "compile": True, "rows": 8}
    training = make_training(job, str(folder), micro_batch_rows=3)
    accumulate(training, read_batch(0, training.options, training.old, training.new), 1.0, measure=False)
    return graphs()


@pytest.mark.long
@pytest.mark.slow
def test_each_method_has_its_graphs_whatever_was_compiled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RECOMPILE_LIMIT", max(GRAPHS.values()))  # of two methods together too many
    assert {method: step(method, tmp_path) for method in GRAPHS} == GRAPHS


@pytest.mark.slow
def test_too_many_graphs_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RECOMPILE_LIMIT", 1)
    with pytest.raises(FailOnRecompileLimitHit):
        step("finetune", tmp_path)
