"""Two processes against one."""

import json
import os
from functools import partialmethod
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers import LENGTH, language, write_rows, write_tokenizer
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from models.backbone import create_llama, load_backbone
from models.extend import extend, trainable_state
from pipeline.common.cli import main
from train.__main__ import STAGES
from train.data.rows import join_rows, open_rows
from train.data.tokens import tokenizer_digest
from train.distributed import gathered, processes, rank, world
from train.ranks import MEETING, run_ranks
from train.runs.options import Run
from train.trainer.loop import TrainingJob, train

# On the CPU wherever the tests run: several ranks need as many GPUs.
pytestmark = pytest.mark.slow

OPTIONS = {"learning_rate": 1e-2, "steps": 6, "batch_rows": 8, "threads": 1, "device": "cpu", "old_rate": 0.3}
CASES = {
    "neutral": {"method": "neutral", "alpha": "auto", "gate": "sigmoid", "checkpoint_every": 2},
    "sharded": {"method": "neutral", "alpha": "auto", "gate": "sigmoid", "checkpoint_every": 2, "shard": True},
    "finetune": {"method": "finetune", "shard": True, "activation_checkpointing": True, "compile": True},
    "dropout": {"method": "adapter", "activation_checkpointing": True},  # of GPT-2
    # A second language, behind blocks of the first and of two old domains.
    "second": {
        "method": "neutral",
        "alpha": "auto",
        "gate": "relu",
        "shard": True,
        "activation_checkpointing": True,
        "base": "first",
    },
}


def listening() -> set[str]:
    """The addresses at which this process listens, in hexadecimal: man 5 proc_pid_net."""
    own, found = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}, set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            _, address, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in own:
                found.add(address.partition(":")[0])
    return found


def train_all(folder: str) -> None:
    """Train every case, then the first again from a checkpoint that another number of ranks left.

    The latter meet where those of torchrun meet.
    """
    with processes(torch.device("cpu")):
        for name in CASES:
            trained(folder, name, micro_batch_rows=4)
        assert listening() == {"0100007F"}
    del os.environ[MEETING]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    with processes(torch.device("cpu")):
        trained(folder, "sharded", micro_batch_rows=4, resumed=True)


def trained(folder: str, name: str, **changes) -> None:
    """Train a case, and let rank 0 write its weights and metrics."""
    resumed = changes.pop("resumed", False)
    options = Run(**(OPTIONS | CASES[name] | changes))
    torch.manual_seed(1)
    if name == "dropout":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2))
    else:
        model = create_llama(hidden_size=16, layers=3, heads=2, ffn_size=24, vocabulary=64, row_tokens=LENGTH)
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    old, new = open_rows(f"{folder}/old.arrow"), open_rows(f"{folder}/new.arrow")
    if options.base:
        extend(model, "neutral", seed=1)
        for key, weight in model.named_parameters():
            if key.endswith(".block.down_proj.weight"):
                torch.nn.init.normal_(weight, std=0.02)
        model.bfloat16()
        old = join_rows([old, open_rows(f"{folder}/other.arrow")])
    extension = extend(model, options.method, gate=options.gate)
    label = f"{name}-resumed" if resumed else f"{name}-{world()}"
    held, checkpoints = {"en": old}, f"{folder}/{'one' if resumed else label}.checkpoints"
    cpu = torch.device("cpu")
    job = TrainingJob(name, model, options, old, new, held, checkpoints, "same", cpu, extension.context)
    # C++ is compiled for half a minute; what FSDP2 could disturb is what comes before it.
    quick = partialmethod(torch.nn.Module.compile, backend="eager")
    with patch.object(torch.nn.Module, "compile", quick):
        state = train(job)
    weights = gathered(trainable_state(model))
    if rank() == 0:
        save_file(weights, f"{folder}/{label}.safetensors")
        Path(f"{folder}/{label}.json").write_text(json.dumps([state.alpha, state.metrics]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    write_rows(path / "old.arrow", language(1, 90))
    write_rows(path / "new.arrow", language(5, 90, seed=1), unlearned_ids=[7, 8])  # more of them on one rank
    write_rows(path / "other.arrow", language(7, 50, seed=2))
    torch.set_num_threads(1)
    for name in CASES:
        # Micro-batches of four on one rank are those of both ranks.
        trained(str(path), name, micro_batch_rows=4, shard=False, compile=False)
    (path / "neutral-1.checkpoints").rename(path / "one.checkpoints")
    run_ranks(2, train_all, str(path))
    return path


def results(folder: Path, label: str):
    alpha, lines = json.loads((folder / f"{label}.json").read_text())
    times = ("tokens_per_s", "waiting")
    return (
        load_file(folder / f"{label}.safetensors"),
        alpha,
        [{name: value for name, value in line.items() if name not in times} for line in lines],
    )


@pytest.mark.parametrize("name", ["neutral", "dropout"])
def test_two_ranks_are_one_to_the_bit(folder: Path, name: str) -> None:
    one, two = results(folder, f"{name}-1"), results(folder, f"{name}-2")
    assert one[0].keys() == two[0].keys()
    assert all(torch.equal(one[0][name], two[0][name]) for name in one[0])
    assert one[1] == pytest.approx(two[1], rel=1e-6)
    assert [line.get("loss") for line in one[2]] == [line.get("loss") for line in two[2]]


@pytest.mark.parametrize("name", ["sharded", "finetune", "second"])
def test_sharded_weights_train_to_the_same(folder: Path, name: str) -> None:
    one, two = results(folder, f"{name}-1"), results(folder, f"{name}-2")
    for key, weight in one[0].items():
        torch.testing.assert_close(two[0][key], weight, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(two[2], one[2], strict=True):
        assert ours.keys() == theirs.keys()
        if "loss" in ours:
            assert ours == pytest.approx(theirs, rel=1e-3)


def test_another_number_of_ranks_goes_on_from_the_checkpoint(folder: Path) -> None:
    whole, resumed = results(folder, "sharded-2"), results(folder, "sharded-resumed")
    begun = json.loads((folder / "neutral-1.json").read_text())
    assert json.loads((folder / "sharded-resumed.json").read_text())[1][:5] == begun[1][:5]  # its times too
    assert resumed[1] == begun[0]
    for key, weight in whole[0].items():
        torch.testing.assert_close(resumed[0][key], weight, rtol=1e-3, atol=1e-4)


# Whole stages -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, rows, held-out rows, and a backbone that one process has trained."""
    path = tmp_path_factory.mktemp("stages")
    same = {"tokenizer_sha256": tokenizer_digest(write_tokenizer(path / "tokenizer"))}
    write_rows(path / "rows.arrow", language(1, 60), **same)
    write_rows(path / "held.arrow", language(1, 12, seed=2), **same)
    assert pretrain(path, "backbone") == 0
    return path


def run_stage(stage: str, folder: Path, output: str, flags: str) -> int:
    places = ["--rows", f"{folder}/rows.arrow", "--validation", f"en={folder}/held.arrow"]
    schedule = "--steps 4 --learning-rate 1e-2 --micro-batch-rows 4 --device cpu --threads 1"
    arguments = [stage, *places, "--output", f"{folder}/{output}", *f"{schedule} {flags}".split()]
    return main("train", "", STAGES, arguments)


def pretrain(folder: Path, output: str, flags: str = "--batch-rows 8") -> int:
    sizes = "--hidden-size 16 --layers 2 --heads 2 --ffn-size 24"
    return run_stage("pretrain", folder, output, f"--tokenizer {folder}/tokenizer {sizes} {flags}")


def settle(folder: Path, output: str, flags: str) -> int:
    return run_stage("settle", folder, output, f"--backbone {folder}/backbone --batch-rows 8 {flags}")


def made(folder: Path, output: str) -> dict[str, torch.Tensor]:
    return load_file(folder / output / "model.safetensors")


def test_a_stage_with_two_processes_is_one_to_the_bit(inputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert pretrain(inputs, "two", "--batch-rows 8 --gpus 2") == 0
    one, two = made(inputs, "backbone"), made(inputs, "two")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((inputs / "two" / "training.json").read_text())["ranks"] == 2
    capfd.readouterr()
    assert pretrain(inputs, "two", "--batch-rows 7 --gpus 2") == 1
    assert "command line: batch_rows: 7 is not a multiple of gpus (2); make it one" in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_a_backbone_settles_in_shards_to_the_same(inputs: Path) -> None:
    assert settle(inputs, "settled", "") == settle(inputs, "sharded", "--gpus 2 --shard") == 0
    start, expected, found = made(inputs, "backbone"), made(inputs, "settled"), made(inputs, "sharded")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():  # saved in bf16
        torch.testing.assert_close(found[name], weight, rtol=2**-7, atol=2e-4)
        assert not torch.equal(found[name], start[name])
    counts = [json.loads((inputs / name / "training.json").read_text()) for name in ("settled", "sharded")]
    assert counts[0]["parameters"] == counts[1]["parameters"]
    loaded = load_backbone(f"{inputs}/sharded").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in found.items())
