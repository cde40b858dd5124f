import base64
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import replace
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from device import DEVICE, ROUNDING, same
from helpers import LENGTH, language, write_rows, write_tokenizer
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from models.backbone import compute, create_llama
from models.block import NeutralBlock
from models.extend import extend as extend_model
from models.extend import trainable_state
from models.loss import sum_nll
from pipeline.common.errors import StageError
from train.data.rows import open_rows
from train.data.tokens import tokenizer_digest
from train.evaluation.bits_per_byte import score_rows
from train.runs.export import save
from train.runs.load import load_run
from train.runs.options import METHODS, Export, Pretrain, Run, Settle
from train.runs.origin import Origin, Settled, backbone_record, origin
from train.sharing.export import export_run
from train.trainer import checkpoint
from train.trainer.loop import (
    TrainingJob,
    accumulate,
    find_alpha,
    is_flat,
    measures,
    set_up_layers,
    take_step,
    train,
)
from train.trainer.metrics import scalars
from train.trainer.micro_batches import positions
from train.trainer.mixture import Batch, Draw, read_batch
from train.trainer.optimizer import learning_rate, make_optimizer
from train.trainer.stages import extend, identity, pretrain, settle

SIZES = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24}
QUICK = {"batch_rows": 8, "micro_batch_rows": 8, "evaluate_rows": 8, "threads": 1, "device": DEVICE.type}


def run(method: str = "neutral", **changes: Any) -> Run:
    return Run(**({"learning_rate": 1e-2, "steps": 12, "method": method, "alpha": 1.0} | QUICK | changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of two languages and a backbone pretrained on the first."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = write_tokenizer(folder / "tokenizer")
    same = {"tokenizer_sha256": tokenizer_digest(tokenizer)}
    made = {
        "old": write_rows(folder / "old.arrow", language(1, 200), "en", **same),
        "new": write_rows(folder / "new.arrow", language(5, 200, seed=1), "fr", **same),
        "old_held": write_rows(folder / "old_held.arrow", language(1, 16, seed=2), "en", **same),
        "new_held": write_rows(folder / "new_held.arrow", language(5, 16, seed=3), "fr", **same),
        "tokenizer": tokenizer,
        "backbone": str(folder / "backbone"),
    }
    options = Pretrain(learning_rate=1e-2, steps=60, **SIZES, **QUICK)
    pretrain(options, made["old"], [f"en={made['old_held']}"], made["tokenizer"], made["backbone"])
    return made


def extend_in(world: dict[str, str], options: Run, output: Path) -> list[dict[str, Any]]:
    held = [f"en={world['old_held']}", f"fr={world['new_held']}"]
    extend(options, world["backbone"], [world["old"]], world["new"], held, str(output))
    return metrics(output)


def metrics(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


def evaluations(lines: list[dict[str, Any]], domain: str) -> list[float]:
    return [line["evaluation"][domain]["bpb"] for line in lines if "evaluation" in line]


def test_pretraining_learns_and_leaves_a_whole_folder(world: dict[str, str]) -> None:
    lines = metrics(world["backbone"])
    curve = evaluations(lines, "en")
    assert len(curve) == 3 and curve[-1] < 0.8 * curve[0]
    documents = lines[-1]["evaluation"]["en"]["documents"]
    nats, size = (
        np.frombuffer(base64.b64decode(documents[key]), kind).sum()
        for key, kind in (("nats", "<f4"), ("bytes", "<u4"))
    )
    assert documents["count"] == 8
    assert curve[-1] == pytest.approx(nats / size / math.log(2), rel=1e-5)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    about = json.loads((Path(world["backbone"]) / "training.json").read_text())
    assert about["tokens"] == 60 * 8 * LENGTH and about["steps"] == 60
    names = {path.name for path in Path(world["backbone"]).iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "training.json"}
    assert {path.name for path in Path(world["backbone"]).parent.glob("backbone*")} == {"backbone"}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns(world: dict[str, str], tmp_path: Path, method: str) -> None:
    lines = extend_in(world, run(method, steps=30, evaluate_every=30), tmp_path / "run")
    learning = evaluations(lines, "fr")
    assert learning[-1] < 0.9 * learning[0]
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["method"] == method and about["tokens"] == 30 * 8 * LENGTH
    assert about["true_fraction"] == pytest.approx(0.0 if method == "finetune" else 0.2, rel=0.2)
    measured = [line for line in lines if "gate_new" in line]
    # Of each ten steps the first, and the second, the first with an old row.
    assert len(measured) == (6 if method in ("adapter", "neutral") else 0)
    assert sum("gate_old" in line for line in measured) == len(measured) / 2
    assert all((line["gate_new"] == 1) == (method == "adapter") for line in measured)

    # Before the first step an extended model is the backbone, to the last bit of what is measured.
    backbone = score_rows(
        load_run(world["backbone"], None, DEVICE), open_rows(world["new_held"]), 8, DEVICE, limit=8
    )
    if method == "finetune":  # in fp32, so that its rounding is another
        assert learning[0] == pytest.approx(backbone["bpb"], rel=5e-3)
    else:
        assert learning[0] == pytest.approx(backbone["bpb"], rel=ROUNDING, abs=0)

    # What was trained is what is loaded: but for rounding to bf16, the last evaluation comes out again.
    model = load_run(world["backbone"], str(tmp_path / "run"), DEVICE)
    score = score_rows(model, open_rows(world["new_held"]), 5, DEVICE, limit=8)
    assert score["bpb"] == pytest.approx(learning[-1], rel=5e-3)
    assert score["bpb"] == pytest.approx(score["nats"] / math.log(2) / score["bytes"])


def test_neutral_forgets_less(world: dict[str, str], tmp_path: Path) -> None:
    forgetting = {}
    for method in ("finetune", "neutral"):
        lines = extend_in(world, run(method, steps=30, alpha=100.0), tmp_path / method)
        curve = evaluations(lines, "en")
        forgetting[method] = curve[-1] - curve[0]
    assert forgetting["neutral"] < 0.5 * forgetting["finetune"]


def test_scores_leave_special_tokens_out(world: dict[str, str], tmp_path: Path) -> None:
    tokens = language(1, 6)
    model = load_run(world["backbone"], None, DEVICE)
    plain = score_rows(model, open_rows(write_rows(tmp_path / "plain.arrow", tokens)), 4, DEVICE)
    assert (plain["tokens"], plain["bytes"]) == (6 * LENGTH, 12 * LENGTH)
    tokens[:, -1] = 0
    ended = score_rows(model, open_rows(write_rows(tmp_path / "ended.arrow", tokens)), 4, DEVICE)
    assert ended["tokens"] == 6 * (LENGTH - 1)
    assert ended["nats"] < plain["nats"]


# Steps --------------------------------------------------------------------------------------------


def small_job(world: dict[str, str], options: Run, folder: Path, **sizes: int) -> TrainingJob:
    model = create_llama(**(SIZES | sizes), vocabulary=64, row_tokens=LENGTH).to(DEVICE)
    extension = extend_model(model, options.method, gate=options.gate)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    old, new = open_rows(world["old"]), open_rows(world["new"])
    return TrainingJob("test", model, options, old, new, {}, str(folder), "same", DEVICE, extension.context)


def first_batch(world: dict[str, str], options: Run) -> Batch:
    return read_batch(0, options, open_rows(world["old"]), open_rows(world["new"]))


def gradient(job: TrainingJob, batch: Batch, alpha: float = 1.0) -> tuple[torch.Tensor, float, dict[str, float]]:
    job.model.zero_grad()
    loss, *measured = accumulate(job, batch, alpha, measure=True).tolist()
    trained = [p.grad.flatten() for p in job.model.parameters() if p.grad is not None]
    return torch.cat(trained), loss, measures(job, batch, alpha, measured)


@pytest.mark.parametrize("unlearned", [[], [7, 11, 20, 30]])
def test_micro_batches_change_nothing(world: dict[str, str], tmp_path: Path, unlearned: list[int]) -> None:
    """With tokens that are not scored too: the loss is the mean over all others of the step."""
    results = []
    for size in (8, 3):
        options = run(gate="sigmoid", micro_batch_rows=size, old_rate=0.4)
        job, batch = small_job(world, options, tmp_path), first_batch(world, options)
        job = replace(job, new=replace(job.new, metadata=job.new.metadata | {"unlearned_ids": unlearned}))
        results.append(gradient(job, batch))
    tokens_BT1 = torch.from_numpy(batch.tokens_BT1)
    with torch.no_grad():
        logp = job.model(input_ids=tokens_BT1[:, :-1]).logits.log_softmax(-1)
    nll_BT = -logp.gather(2, tokens_BT1[:, 1:, None])[..., 0]
    scored_BT = ~torch.isin(tokens_BT1[:, 1:], torch.tensor(unlearned, dtype=torch.int64))
    assert results[0][1] == pytest.approx(nll_BT[scored_BT].mean().item(), rel=1e-2)
    assert unlearned == [] or 0 < scored_BT.float().mean() < 0.99
    (whole, loss, measures), (parts, part_loss, part_measures) = results
    assert torch.nn.functional.cosine_similarity(whole, parts, 0) > 0.9999
    assert (parts.norm() / whole.norm()).item() == pytest.approx(1, abs=2e-3)
    assert part_loss == pytest.approx(loss, rel=1e-4 + ROUNDING)
    assert set(measures) == {"l1", "gate_old", "gate_new", "lm_gradient", "l1_gradient", "l1_ratio"}
    assert part_measures == pytest.approx(measures, rel=1e-2)


def test_l1_is_of_old_rows_only(world: dict[str, str], tmp_path: Path) -> None:
    gradients = {}
    for is_old in (False, True):
        for alpha in (0.0, 50.0):
            job, index = small_job(world, run(), tmp_path), np.arange(8)
            batch = Batch(Draw(np.full(8, is_old), index), job.new.tokens(index), 8 * is_old, 8)
            gradients[is_old, alpha] = gradient(job, batch, alpha)[0]
    assert same(gradients[False, 0.0], gradients[False, 50.0])
    assert not torch.equal(gradients[True, 0.0], gradients[True, 50.0])


def test_alpha_auto_gives_the_ratio_asked_for(world: dict[str, str], tmp_path: Path) -> None:
    options = run(alpha="auto", alpha_ratio=0.4, old_rate=0.5)
    job = small_job(world, options, tmp_path)
    down = [block.down_proj.weight for block in blocks(job)]
    for weight in down:
        torch.nn.init.zeros_(weight)
    alpha = find_alpha(job)
    assert all(weight.grad is None for weight in down)
    for weight in down:
        torch.nn.init.normal_(weight, std=1e-5)
    ratios = [
        gradient(job, read_batch(step, options, job.old, job.new), alpha)[2]["l1_ratio"] for step in range(8)
    ]
    assert np.mean(ratios) == pytest.approx(0.4, rel=0.1)
    assert find_alpha(replace(job, options=run(alpha="auto", alpha_ratio=0.8, old_rate=0.5))) > 1.9 * alpha
    fewer_old = find_alpha(replace(job, options=run(alpha="auto", alpha_ratio=0.4, old_rate=0.25)))
    assert fewer_old == pytest.approx(alpha, rel=0.2)
    assert find_alpha(replace(job, options=run(alpha=3.0))) == 3.0
    assert find_alpha(replace(job, options=run(alpha="auto", old_rate=0.0))) == 0.0
    with pytest.raises(StageError, match="auto finds no old-domain row"):
        find_alpha(replace(job, options=run(alpha="auto", old_rate=0.001)))


def blocks(job: TrainingJob) -> list[NeutralBlock]:
    return [module for module in job.model.modules() if isinstance(module, NeutralBlock)]


@pytest.mark.parametrize("micro", [8, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_is_that_of_the_loss_written_down(
    world: dict[str, str], tmp_path: Path, micro: int, recompute: bool
) -> None:
    options = run(micro_batch_rows=micro, activation_checkpointing=recompute, old_rate=0.4)
    job, batch = small_job(world, options, tmp_path), first_batch(world, options)
    outs: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outs.append(out)) for block in blocks(job)]
    old_B11 = torch.from_numpy(batch.draw.is_old).view(-1, 1, 1).to(DEVICE)
    with compute(DEVICE):
        nll = sum_nll(job.model, torch.from_numpy(batch.tokens_BT1).to(DEVICE)) / (8 * LENGTH)
        l1 = sum((out.float().abs() * old_B11).sum() for out in outs) / (batch.old_rows * LENGTH * 2 * 16)
    (nll + 20.0 * l1).backward()
    expected = torch.cat([p.grad.flatten() for p in job.model.parameters() if p.grad is not None])
    for hook in hooks:
        hook.remove()
    set_up_layers(job)
    ours, loss, measures = gradient(job, batch, alpha=20.0)
    assert torch.nn.functional.cosine_similarity(ours, expected, 0) > 0.9999
    assert (ours.norm() / expected.norm()).item() == pytest.approx(1, abs=2e-3)
    assert (loss, measures["l1"]) == pytest.approx((nll.item(), l1.item()), rel=2e-3)


class Reads(TorchDispatchMode):
    """Finds where a GPU would be waited for: numbers that are read, or come from Python, by the function."""

    # One asks once a micro-batch whether rows are packed; the other copies from pinned memory, without waiting.
    KNOWN = ("find_packed_sequence_indices", "to_device")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(operation) for name in ("_local_scalar", "nonzero", "masked_select", "lift_fresh")):
            stack = [place for place in traceback.extract_stack()[:-1] if "/torch/" not in place.filename]
            self.found |= {stack[-1].name} - set(self.KNOWN)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["neutral", "finetune"])
def test_a_step_waits_for_no_number_before_its_end(world: dict[str, str], tmp_path: Path, method: str) -> None:
    job = small_job(world, run(method, micro_batch_rows=4, gate="sigmoid", old_rate=0.4), tmp_path)
    job = replace(job, new=replace(job.new, metadata=job.new.metadata | {"unlearned_ids": [7]}))
    optimizer, state = make_optimizer(job.model, job.options), checkpoint.State(step=9, alpha=1.0)
    job.model.set_attn_implementation("sdpa")  # as on a GPU
    take_step(job, optimizer, first_batch(world, job.options), state)  # the first tries the head
    state.step = 10
    with Reads() as reads:
        take_step(job, optimizer, first_batch(world, job.options), state)
    assert not reads.found
    with Reads() as reads:
        torch.ones(2).sum().item()
    assert reads.found


@pytest.mark.long
@pytest.mark.slow
def test_compiled_layers_compute_the_same(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured steps too, in as many graphs, whatever the number of layers."""
    # Traced and differentiated as usual; only the last step, making machine code, would take half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.utils.counters.clear()
    results = []
    for compiled in (False, True):
        options = run(compile=compiled, gate="sigmoid", old_rate=0.4, steps=12, checkpoint_every=99)
        job = small_job(world, options, tmp_path, layers=4)
        results.append((train(job).metrics, trainable_state(job.model)))
    torch._dynamo.reset()
    (plain, expected), (fast, weights) = results
    times = ("tokens_per_s", "waiting", "mfu")
    for ours, theirs in zip(fast, plain, strict=True):
        if "loss" in ours:
            numbers = [{name: line[name] for name in line if name not in times} for line in (ours, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)
    assert sum("l1_ratio" in line for line in fast) == 2
    for name in weights:
        torch.testing.assert_close(weights[name], expected[name], rtol=2e-2, atol=2e-3)
    # The first layer, whose input has no gradient, and the others; both also measured. On a GPU, the loss.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4 + (DEVICE.type == "cuda")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masked_documents_are_apart(world: dict[str, str], tmp_path: Path, attention: str) -> None:
    rows = open_rows(write_rows(tmp_path / "rows.arrow", language(1, 9), separator=0))
    tokens = torch.from_numpy(rows.tokens(np.arange(4))).to(DEVICE)
    tokens[:, 7] = 0
    other = tokens.clone()
    other[:, 2:7] = 5
    later = (torch.arange(LENGTH, device=DEVICE) >= 7).float().expand(4, LENGTH)
    nll = {}
    for masked in (False, True):
        job = replace(small_job(world, run(mask_documents=masked), tmp_path), new=rows)
        job.model.set_attn_implementation(attention)
        place = positions(job, tokens)
        nll[masked] = [sum_nll(job.model, t, later, place).item() for t in (tokens, other)]
    assert place is not None and place[0].tolist() == [*range(7), *range(LENGTH - 7)]
    assert nll[True][0] == pytest.approx(nll[True][1], rel=ROUNDING, abs=0)
    assert nll[False][0] != nll[False][1]
    # The second document alone, from its separator on, has the same loss.
    alone = sum_nll(job.model, tokens[:, 7:]).item()
    assert nll[True][0] == pytest.approx(alone, rel=1e-4)


GOLDEN = {
    "pretrain": [3.9877, 3.5357, 3.1272, 2.8165, 2.5592, 2.3412, 2.1734, 2.1853, 2.156, 2.0273],
    "neutral": [4.6621, 3.872, 3.302, 2.9589, 2.9305, 2.8016, 2.7066, 2.8003, 2.6753, 2.7579],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_curve_is_the_golden_one(world: dict[str, str], tmp_path: Path, name: str) -> None:
    """Rounding in bf16 differs between CPUs by far less than any change of the method makes."""
    if name == "pretrain":
        lines = metrics(world["backbone"])
    else:
        lines = extend_in(
            world,
            run(steps=60, alpha="auto", alpha_ratio=0.125, gate="sigmoid", evaluate_every=60),
            tmp_path / "run",
        )
    curve = [line["loss"] for line in lines if "loss" in line]
    means = [round(float(np.mean(curve[i : i + 6])), 4) for i in range(0, 60, 6)]
    assert means == pytest.approx(GOLDEN[name], rel=5e-3 + ROUNDING), means


def test_a_control_reads_no_new_row(world: dict[str, str], tmp_path: Path) -> None:
    made = {"tokenizer_sha256": tokenizer_digest(world["tokenizer"])}
    unknown = world | {"new": write_rows(tmp_path / "new.arrow", language(1, 20) + 1000, "fr", **made)}
    lines = extend_in(unknown, run(steps=4, old_rate=1.0, alpha="auto"), tmp_path / "control")
    assert len(losses(lines)) == 4
    assert any("gate_old" in line for line in lines) and not any("gate_new" in line for line in lines)
    with pytest.raises(StageError, match=r"new\.arrow: token 10\d\d in a vocabulary of 64"):
        extend_in(unknown, run(steps=4, old_rate=0.9), tmp_path / "other")


def test_frozen_weights_stay(world: dict[str, str], tmp_path: Path) -> None:
    job = small_job(world, run(steps=3, checkpoint_every=99), tmp_path)
    before = {name: weight.detach().clone() for name, weight in job.model.named_parameters()}
    train(job)
    moved = {name for name, weight in job.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".block." in name}


def test_decay_is_on_matrices_only(world: dict[str, str], tmp_path: Path) -> None:
    job = small_job(world, run(), tmp_path)
    names = {id(weight): name for name, weight in job.model.named_parameters()}
    groups = make_optimizer(job.model, job.options).param_groups
    decays = {
        names[id(weight)].split("block.")[1]: group["weight_decay"]
        for group in groups
        for weight in group["params"]
    }
    matrices = dict.fromkeys(("gate_proj.weight", "up_proj.weight", "down_proj.weight"), 0.1)
    assert decays == matrices | {"gate.weight": 0.0, "gate.bias": 0.0}


def test_learning_rate() -> None:
    options = run(steps=100, warmup_share=0.1, learning_rate=2.0, final_share=0.25)
    rates = [learning_rate(step, options) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert rates[-1] == pytest.approx(0.5)


def test_warm_up_is_exactly_its_share_of_the_steps() -> None:
    for hundredths, steps in product(range(101), (1, 10, 100, 300, 10_000)):
        options = run(steps=steps, warmup_share=hundredths / 100, learning_rate=2.0, final_share=0.5)
        warmup = -(-hundredths * steps // 100)
        if warmup:
            assert learning_rate(warmup - 1, options) == 2.0
            assert warmup == 1 or learning_rate(warmup - 2, options) < 2.0
        if warmup < steps:
            assert learning_rate(warmup, options) < 2.0
            assert learning_rate(steps - 1, options) == 1.0


def test_a_training_stops_where_all_decisive_domains_are_flat() -> None:
    def lines(**curves: list[float]) -> list[dict[str, Any]]:
        steps = zip(*curves.values(), strict=True)
        domains = [{name: {"bpb": bpb} for name, bpb in zip(curves, step, strict=True)} for step in steps]
        return [{"step": 1, "loss": 3.0}, *({"evaluation": measured} for measured in domains)]

    options, both = Settle(learning_rate=1e-3, flat_below=0.1), ("en", "docs")
    assert is_flat(lines(en=[2.0, 1.95]), options, ["en"]) and is_flat(lines(en=[3.0, 2.0, 2.1]), options, ["en"])
    assert not is_flat(lines(en=[2.0, 1.8]), options, ["en"]) and not is_flat(lines(en=[2.0]), options, ["en"])
    assert not is_flat(lines(en=[2.0, 2.0]), Settle(learning_rate=1e-3), ["en"])
    assert is_flat(lines(en=[2.0, 1.95], docs=[3.0, 3.1], fr=[4.0, 3.0]), options, both)
    assert not is_flat(lines(en=[2.0, 1.95], docs=[3.0, 2.8], fr=[4.0, 4.0]), options, both)


def test_early_stop_is_a_whole_backbone(world: dict[str, str], tmp_path: Path) -> None:
    options = Pretrain(learning_rate=0.0, steps=50, evaluate_every=4, flat_below=0.01, **SIZES, **QUICK)
    held, output = [f"en={world['old_held']}"], tmp_path / "backbone"
    pretrain(options, world["old"], held, world["tokenizer"], str(output))
    assert json.loads((output / "training.json").read_text())["steps"] == 4


def test_settling_trains_all_weights_and_says_of_what(world: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(world["backbone"], source)
    tokenizer = source / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")  # as another version of transformers might write it
    made = {"tokenizer_sha256": tokenizer_digest(source)}
    new = write_rows(tmp_path / "rows/new.arrow", language(5, 200, seed=1), "fr", **made)
    fr = write_rows(tmp_path / "rows/fr.arrow", language(5, 16, seed=3), "fr", **made)
    en = write_rows(tmp_path / "rows/en.arrow", language(1, 16, seed=2), "en", **made)
    options = Settle(learning_rate=3e-3, steps=30, evaluate_every=10, **QUICK)
    settle(options, str(source), new, [f"en={en}", f"fr={fr}"], str(tmp_path / "settled"))
    curve = evaluations(metrics(tmp_path / "settled"), "fr")
    assert len(curve) == 4 and curve[-1] < 0.9 * curve[0]

    # What lies there is what was measured last, in bf16 and with the source's tokenizer.
    states = [
        load_file(Path(folder) / "model.safetensors") for folder in (world["backbone"], tmp_path / "settled")
    ]
    assert states[0].keys() == states[1].keys()
    assert not any(states[0][name].equal(states[1][name]) for name in states[0] if "norm" not in name)
    assert {weight.dtype for weight in states[1].values()} == {torch.bfloat16}
    assert tokenizer_digest(tmp_path / "settled") == tokenizer_digest(source)
    score = score_rows(load_run(str(tmp_path / "settled"), None, DEVICE), open_rows(fr), 8, DEVICE, limit=8)
    assert score["bpb"] == pytest.approx(curve[-1], rel=5e-3)

    known, tokens = origin(str(tmp_path / "settled")), 30 * 8 * LENGTH
    settled_on = [Settled(domain="fr", tokens=tokens)]
    assert known == Origin(source=str(source), revision=None, settled=settled_on)
    record = backbone_record(str(tmp_path / "settled"))
    assert record is not None and record.options == options and (record.steps, record.tokens) == (30, tokens)
    before = backbone_record(world["backbone"])
    assert before is not None and isinstance(before.options, Pretrain)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "rows", "settled"}


def test_settling_goes_on_from_its_checkpoint(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: TrainingJob, optimizer: Any, batch: Batch, state: checkpoint.State) -> dict[str, float]:
        if state.step == 5:
            raise KeyboardInterrupt
        return take_step(job, optimizer, batch, state)

    options, weights = Settle(learning_rate=3e-3, steps=7, checkpoint_every=3, **QUICK), {}
    for name in ("whole", "stopped"):
        output = tmp_path / name
        given = (options, world["backbone"], world["new"], [f"fr={world['new_held']}"], str(output))
        if name == "stopped":
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr("train.trainer.loop.take_step", stop)
                settle(*given)
            assert not output.exists() and list(tmp_path.glob("stopped.checkpoints/*"))
        settle(*given)
        weights[name] = load_file(output / "model.safetensors")
    assert all(same(weight, weights["stopped"][name]) for name, weight in weights["whole"].items())


def test_what_is_passed_on_says_that_its_backbone_was_settled(world: dict[str, str], tmp_path: Path) -> None:
    settled = str(tmp_path / "settled")
    settle(Settle(learning_rate=3e-3, steps=1, **QUICK), world["backbone"], world["old"], [], settled)
    extend_in(world | {"backbone": settled}, run(steps=1), tmp_path / "run")
    export_run(Export(), str(tmp_path / "run"), None, [], str(tmp_path / "export"))
    card = (tmp_path / "export/README.md").read_text()
    assert "# backbone-run\n" in card and "`backbone, settled on en`, extended to fr as in" in card
    save(str(tmp_path / "run"), None, str(tmp_path / "adapter"))
    about = json.loads((tmp_path / "adapter/adapter.json").read_text())["backbone"]
    assert (about["name"], about["source"]) == ("backbone, settled on en", None)
    with pytest.raises(StageError, match="trained on other weights"):
        load_run(world["backbone"], str(tmp_path / "run"), DEVICE)


def test_settling_goes_on_until_its_language_is_flat(world: dict[str, str], tmp_path: Path) -> None:
    flat = Settle(learning_rate=0.0, steps=50, evaluate_every=4, flat_below=0.01, **QUICK)
    held = [f"fr={world['new_held']}", f"en={world['old_held']}"]
    settle(flat, world["backbone"], world["old"], held, str(tmp_path / "settled"))
    assert json.loads((tmp_path / "settled" / "training.json").read_text())["steps"] == 4
    with pytest.raises(StageError, match=r"flat_below: none of the held-out rows is in en, as .*old\.arrow is"):
        settle(flat, world["backbone"], world["old"], held[:1], str(tmp_path / "other"))


# What goes wrong ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_step_documents_and_checkpoint(
    world: dict[str, str], tmp_path: Path
) -> None:
    job = small_job(world, run(learning_rate=1e30, checkpoint_every=1), tmp_path)
    with pytest.raises(StageError, match=r"step 2: the loss is .*documents \[.*last good checkpoint: .*000001"):
        train(job)


def test_a_loss_that_explodes_stops_the_training(world: dict[str, str], tmp_path: Path) -> None:
    job = small_job(world, run("finetune", learning_rate=5.0, clip=0.0, steps=60), tmp_path)
    with pytest.raises(
        StageError, match=r"step \d+: the loss is (1[2-9]|[2-9]\d|\d\d\d+)\.\d.*lower learning_rate"
    ):
        train(job)


def test_running_out_of_memory_says_what_to_turn(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: Any, **__: Any) -> torch.Tensor:
        return torch.empty(2**50, device=DEVICE)

    job = small_job(world, run(micro_batch_rows=4), tmp_path)
    monkeypatch.setattr("train.trainer.loop.sum_nll", greedy)
    with pytest.raises(StageError, match=r"lower micro_batch_rows \(now 4.*activation_checkpointing.*set gpus"):
        train(job)
    monkeypatch.setattr("train.trainer.loop.sum_nll", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(job)


def test_what_decides_nothing_leaves_a_checkpoint_valid(world: dict[str, str]) -> None:
    rows, model = [open_rows(world["new"])], torch.nn.Linear(2, 2)
    watched, others = ({"fr": open_rows(world[name])} for name in ("new_held", "old_held"))
    same = run(
        micro_batch_rows=2, activation_checkpointing=True, shard=True, threads=7, evaluate_every=3, track="wandb"
    )
    assert identity(run(), rows, watched, model) == identity(same, rows, others, model)
    assert identity(run(), rows, watched, model) != identity(run(seed=1), rows, watched, model)
    ends = Pretrain(learning_rate=1e-2, flat_below=0.1, **SIZES, **QUICK)
    assert identity(ends, rows, watched, model) != identity(ends, rows, others, model)
    assert identity(ends, rows, watched, model) != identity(replace(ends, evaluate_every=3), rows, watched, model)


def test_a_tracker_gets_what_tensorboard_gets_and_decides_no_weights(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    tracked = SimpleNamespace(log=lambda numbers, step: told.append((step, numbers)), finish=lambda: None)
    tool = SimpleNamespace(init=lambda resume, **asked: tracked if resume == "never" else int("no such run"))
    monkeypatch.setitem(sys.modules, "trackio", tool)
    weights = []
    for name, track in (("plain", None), ("tracked", "trackio")):
        lines = extend_in(world, run(steps=3, evaluate_every=2, track=track), tmp_path / name)
        weights.append(load_file(tmp_path / name / "weights.safetensors"))
    assert told == [(line["step"], dict(scalars(line))) for line in lines]
    assert {"bpb/en", "bpb/fr", "train/loss", "train/gate_new"} <= {
        name for _, numbers in told for name in numbers
    }
    assert all(same(weight, weights[1][name]) for name, weight in weights[0].items())


def test_inputs_that_do_not_fit_are_refused(world: dict[str, str], tmp_path: Path) -> None:
    short = write_rows(tmp_path / "short.arrow", language(1, 20)[:, :9])
    with pytest.raises(StageError, match="row_tokens is 8, but 16"):
        extend_in(world | {"old": short}, run(), tmp_path / "run")
    big = {
        name: write_rows(tmp_path / name, language(1, 20), vocabulary=99)
        for name in world
        if name[:3] in ("old", "new")
    }
    with pytest.raises(StageError, match="has 99 entries"):
        extend_in(world | big, run(), tmp_path / "run")
    strange = {
        name: write_rows(tmp_path / name, language(1, 20), tokenizer_sha256="of another")
        for name in world
        if name[:3] in ("old", "new")
    }
    with pytest.raises(StageError, match="made with another tokenizer"):
        extend_in(world | strange, run(), tmp_path / "run")
    digest = open_rows(world["new"]).metadata["tokenizer_sha256"]
    begun = write_rows(tmp_path / "begun.arrow", language(1, 20), beginning=[1], tokenizer_sha256=digest)
    with pytest.raises(StageError, match=r"beginning is \[1\], but \[\] in"):
        extend_in(world | {"old": begun}, run(), tmp_path / "run")
    with pytest.raises(StageError, match="made before mask_documents"):
        extend_in(world, run(mask_documents=True), tmp_path / "run")
    with pytest.raises(StageError, match="one process only"):
        extend_in(world, run(shard=True), tmp_path / "run")
    with pytest.raises(StageError, match="cannot be loaded"):
        extend_in(world | {"backbone": str(tmp_path)}, run(), tmp_path / "run")
    with pytest.raises(StageError, match="not a finished run"):
        load_run(world["backbone"], str(tmp_path), DEVICE)
    extend_in(world, run(steps=1), tmp_path / "run")
    record = tmp_path / "run/run.json"
    record.write_text(re.sub(r'"backbone_digest": "\w', '"backbone_digest": "x', record.read_text()))
    with pytest.raises(StageError, match=r"/run: trained on other weights than those of .*/backbone; give"):
        load_run(world["backbone"], str(tmp_path / "run"), DEVICE)


# Checkpoints --------------------------------------------------------------------------------------

# Runs a stage, and kills itself as a power cut would when the step `kill_at` begins.
DRIVER = """
import json, os, signal, sys
from train.trainer import loop, stages
from train.runs.options import Pretrain, Run
stage, options, arguments, kill_at = json.loads(sys.argv[1])
take_step = loop.take_step
def take_step_or_die(job, optimizer, batch, state):
    if state.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(job, optimizer, batch, state)
loop.take_step = take_step_or_die
getattr(stages, stage)({"extend": Run, "pretrain": Pretrain}[stage](**options), *arguments)
"""


def in_process(stage: str, options: dict[str, Any], arguments: list[Any], kill_at: int) -> int:
    text = json.dumps([stage, options, arguments, kill_at])
    done = subprocess.run([sys.executable, "-c", DRIVER, text], env=os.environ, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("method", ["neutral", "lora"])
def test_stopped_at_any_step_it_ends_in_the_same_bits(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Between steps only the disk counts, so that an exception is as good as a kill, and quicker."""
    options = run(method, alpha="auto", steps=7, checkpoint_every=3, activation_checkpointing=True, old_rate=0.3)
    whole = small_job(world, options, tmp_path / "whole")
    expected = train(whole)

    def stop(job: TrainingJob, optimizer: Any, batch: Batch, state: checkpoint.State) -> dict[str, float]:
        if state.step == stop_at:
            raise KeyboardInterrupt
        return take_step(job, optimizer, batch, state)

    for stop_at in range(options.steps):
        folder = tmp_path / str(stop_at)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("train.trainer.loop.take_step", stop)
            train(small_job(world, options, folder))
        job = small_job(world, options, folder)
        state = train(job)
        assert state.alpha == pytest.approx(expected.alpha, rel=ROUNDING, abs=0)
        assert losses(state.metrics) == pytest.approx(losses(expected.metrics), rel=ROUNDING, abs=0)
        weights = zip(trainable_state(job.model).values(), trainable_state(whole.model).values(), strict=True)
        assert all(same(ours, theirs) for ours, theirs in weights)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["neutral", "finetune"])
def test_killed_and_started_again_gives_the_same_bits(world: dict[str, str], tmp_path: Path, method: str) -> None:
    options = QUICK | {
        "method": method,
        "learning_rate": 1e-2,
        "steps": 9,
        "checkpoint_every": 2,
        "alpha": "auto",
    }
    inputs = [world["backbone"], [world["old"]], world["new"], [f"fr={world['new_held']}"]]
    extend(Run(**options), *inputs, str(tmp_path / "whole"))
    killed = str(tmp_path / "killed")
    assert in_process("extend", options, [*inputs, killed], kill_at=7) == -signal.SIGKILL
    kept = len(list(Path(f"{killed}.checkpoints").glob("step-*.safetensors")))
    assert not Path(killed).exists() and kept - checkpoint.KEPT in (0, DEVICE.type == "cuda")  # a thread's newest
    extend(Run(**options), *inputs, killed)
    assert not Path(f"{killed}.checkpoints").exists()
    weights = [load_file(Path(folder) / "weights.safetensors") for folder in (tmp_path / "whole", killed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(same(weights[0][name], weights[1][name]) for name in weights[0])
    assert losses(metrics(killed)) == pytest.approx(losses(metrics(tmp_path / "whole")), rel=ROUNDING, abs=0)


def saved(world: dict[str, str], folder: Path, steps: int = 6) -> TrainingJob:
    job = small_job(world, run(steps=steps, checkpoint_every=2), folder)
    train(job)
    return job


def test_processor_time_is_added_up_over_interruptions(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read before and behind each step, by a clock that ticks when it is read."""
    ticks = count()
    monkeypatch.setattr("train.trainer.loop.time.process_time", lambda: next(ticks))
    job = saved(world, tmp_path)
    assert checkpoint.resume(tmp_path, "same", job.model, make_optimizer(job.model, job.options)).cpu_seconds == 4
    assert train(job).cpu_seconds == 6


def test_damaged_checkpoint_falls_back_to_the_one_before(
    world: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = saved(world, tmp_path, steps=7)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step-000006.safetensors"
    content = newest.read_bytes()
    flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    for damage in (content[: len(content) // 2], flipped, b""):
        newest.write_bytes(damage)
        state = checkpoint.resume(tmp_path, "same", job.model, make_optimizer(job.model, job.options))
        assert state.step == 4
        assert "is damaged" in caplog.text
        caplog.clear()
    newest.write_bytes(content)
    assert checkpoint.resume(tmp_path, "same", job.model, make_optimizer(job.model, job.options)).step == 6


def test_checkpoint_of_other_inputs_is_ignored(
    world: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job = saved(world, tmp_path)
    before = [p.detach().clone() for p in job.model.parameters()]
    state = checkpoint.resume(tmp_path, "other", job.model, make_optimizer(job.model, job.options))
    assert (state.step, state.metrics) == (0, [])
    assert "of other options or inputs; ignored" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(before, job.model.parameters(), strict=True))


def test_only_the_newest_checkpoints_are_kept(world: dict[str, str], tmp_path: Path) -> None:
    saved(world, tmp_path, steps=9)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-000006.safetensors",
        "step-000008.safetensors",
    ]
    for step in (999_999, 1_000_000):
        (tmp_path / f"step-{step:06d}.safetensors").touch()
    assert checkpoint.newest(tmp_path) == tmp_path / "step-1000000.safetensors"


def held_up(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What a checkpoint is written with waits for this event."""
    may_write, write = threading.Event(), save_file

    def later(*arguments: Any, **named: Any) -> None:
        assert may_write.wait(20)
        write(*arguments, **named)

    monkeypatch.setattr("train.trainer.checkpoint.save_file", later)
    return may_write


def test_what_is_written_beside_training_is_of_the_step_that_saved(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: while a thread writes, training goes on, and the next save waits for it."""
    job = saved(world, tmp_path)
    may_write, optimizer = held_up(monkeypatch), make_optimizer(job.model, job.options)
    checkpoint.resume(tmp_path, "same", job.model, optimizer)
    state = checkpoint.State(5, [{"step": 5}], 2.0, 1.0)
    expected = {name: weight.clone() for name, weight in trainable_state(job.model).items()}
    with checkpoint.saver(tmp_path, "same", job.model, optimizer, beside=True) as (save, wait):
        save(state)
        state.metrics.append({"step": 6})
        for weight in trainable_state(job.model).values():
            weight.zero_()
        for moments in optimizer.state.values():
            moments["exp_avg"].zero_()
        may_write.set()
        wait()
        newest = tmp_path / "step-000005.safetensors"
        assert newest.exists()
        state.step = 7
        save(state)
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000007.safetensors"
    (tmp_path / "step-000007.safetensors").unlink()
    optimizer = make_optimizer(job.model, job.options)
    state = checkpoint.resume(tmp_path, "same", job.model, optimizer)
    assert state == checkpoint.State(5, [{"step": 5}], 2.0, 1.0)
    assert all(torch.equal(expected[name], weight) for name, weight in trainable_state(job.model).items())
    assert all(moments["exp_avg"].any() for moments in optimizer.state.values())


@pytest.mark.parametrize("leaving", ["save", "wait", "end", "exception"])
def test_errors_of_writing_beside_training_are_raised(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaving: str
) -> None:
    job, may_write = small_job(world, run(), tmp_path), held_up(monkeypatch)
    optimizer = make_optimizer(job.model, job.options)
    # Not written, since its folder is a file; but when training stops otherwise, that is what is told.
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if leaving != "exception" else tmp_path
    with (
        pytest.raises(KeyboardInterrupt if leaving == "exception" else OSError),
        checkpoint.saver(folder, "same", job.model, optimizer, beside=True) as (save, wait),
    ):
        save(checkpoint.State(1))
        threading.Timer(0.05, may_write.set).start()
        if leaving == "save":
            save(checkpoint.State(2))
        if leaving == "wait":
            wait()
        if leaving == "exception":
            raise KeyboardInterrupt
    assert checkpoint.newest(tmp_path) == (
        None if leaving != "exception" else tmp_path / "step-000001.safetensors"
    )


def test_checkpoints_of_other_options_push_none_out(world: dict[str, str], tmp_path: Path) -> None:
    job = small_job(world, run(), tmp_path)
    optimizer = make_optimizer(job.model, job.options)
    for step, whose in ((900, "other"), (950, "other"), (2, "same"), (4, "same"), (6, "same")):
        with checkpoint.saver(tmp_path, whose, job.model, optimizer, beside=False) as (save, _):
            save(checkpoint.State(step))
    steps = sorted(int(path.stem[5:]) for path in tmp_path.glob("step-*"))
    assert steps == [4, 6, 900, 950]
    assert checkpoint.resume(tmp_path, "same", job.model, optimizer).step == 6
