"""The trainer on a CPU beside its peers: `python -m benchmarks.training --output results/benchmarks/training`.

Speed and memory against Hugging Face's Trainer with peft's LoRA of the same budget of extra weights, and the
loader against `datasets.interleave_datasets`; `python -m benchmarks.gpu` is for a GPU. All weights and tokens are
random, which costs the same as any. Each measurement is a process of its own, so that its memory is; the
contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import write

# A random Llama. rows x row_tokens is a micro-batch, which is a whole step here.
SIZES = {"hidden_size": 128, "layers": 4, "heads": 2, "ffn_size": 384, "vocabulary": 4096}
CASE = {"sizes": SIZES, "rows": 8, "row_tokens": 128, "steps": 64}
WARM_UP = 4  # steps that are not timed
FRACTION, OLD_RATE = 0.2, 0.1
LOADER_ROWS, LOADER_TOKENS, LOADER_BATCH = 20_000, 2048, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="results/benchmarks/training", help="path without .md and .json")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        job = json.loads(arguments.measure)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURES[job["measure"]](job, Path(folder))))
    else:
        run_all(arguments)


def run_all(arguments: argparse.Namespace) -> None:
    import torch

    notes = [
        f"Trained on the CPU, {arguments.threads} threads; torch {torch.__version__}. "
        f"Medians of {arguments.rounds} turns.",
        "On a GPU: `python -m benchmarks.gpu`.",
    ]
    rows = [*against_trainer(arguments), *loader_rows(arguments)]
    write(arguments.output, "Training", rows, notes)
    print(Path(f"{arguments.output}.md").read_text())


def row(what: str, contender: str, speed: float, unit: str, **more: float | None) -> dict[str, Any]:
    """A line of the table; `times` is the speed over that of the peer, the faster if there are two."""
    empty = {"times": None, "peak MiB": None, "memory over peer's": None, "waiting for rows": None}
    return {"what": what, "contender": contender, "speed": speed, "unit": unit} | empty | more


def against_trainer(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    contenders = {
        "Trainer + peft LoRA": {"measure": "peer"},
        "lora": {"measure": "ours", "method": "lora"},
        "neutral": {"measure": "ours", "method": "neutral"},
        # Without AVX512-BF16 this is the faster one.
        "Trainer + peft LoRA, fp32": {"measure": "peer", "bf16": False},
    }
    turns_of: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, job in contenders.items():
            turns_of[name].append(in_process(CASE | job, arguments))
    middle = {
        name: {key: statistics.median(one[key] for one in turns) for key in turns[0]}
        for name, turns in turns_of.items()
    }
    peer = max((one for name, one in middle.items() if "Trainer" in name), key=lambda one: one["speed"])
    rows = []
    for name, one in middle.items():
        more = {"times": one["speed"] / peer["speed"], "peak MiB": one["memory"]}
        more |= {"memory over peer's": one["memory"] / peer["memory"], "waiting for rows": one.get("waiting")}
        rows.append(row("extend a 1.4M Llama", name, one["speed"], "tokens/s", **more))
    return rows


def loader_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    one = in_process({"measure": "loader"}, arguments)
    what = f"load rows of {LOADER_TOKENS} tokens"
    ours = row(what, "batches", one["ours"], "rows/s", times=one["ours"] / one["peer"])
    return [row(what, "datasets.interleave_datasets", one["peer"], "rows/s", times=1.0), ours]


def in_process(job: dict[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    """What a measurement finds, in a process of its own."""
    text = json.dumps(job | {"threads": arguments.threads})
    print(f"measuring {text}", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.training", "--measure", text]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{text} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# Measurements -------------------------------------------------------------------------------------


def measure_ours(job: dict[str, Any], folder: Path) -> dict[str, float]:
    """A training by `python -m train extend`; speed is that of the steps, the measuring ones included."""
    from train.runs.options import Run
    from train.trainer.stages import extend

    backbone, old, new = make_inputs(job, folder)
    options = Run(
        learning_rate=5e-5,
        method=job["method"],
        fraction=FRACTION,
        old_rate=OLD_RATE,
        steps=job["steps"],
        batch_rows=job["rows"],
        micro_batch_rows=job["rows"],
        evaluate_every=job["steps"],
        evaluate_rows=1,
        checkpoint_every=job["steps"],
        device="cpu",
        threads=job["threads"],
    )
    extend(options, backbone, [old], new, [f"new={new}"], str(folder / "run"))
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line][WARM_UP:]
    seconds = [job["rows"] * job["row_tokens"] / line["tokens_per_s"] for line in steps]
    return {
        "speed": len(steps) * job["rows"] * job["row_tokens"] / sum(seconds),
        "memory": json.loads((folder / "run" / "run.json").read_text())["peak_memory_mib"],
        "waiting": statistics.mean(line["waiting"] for line in steps),
    }


def measure_peer(job: dict[str, Any], folder: Path) -> dict[str, float]:
    """The same training by Hugging Face's Trainer with peft's LoRA, as their own documentation sets it up."""
    import peft
    import torch
    import transformers

    from models.backbone import unique_parameters
    from train.data.rows import open_rows
    from train.trainer.stages import peak_memory_mib

    torch.set_num_threads(job["threads"])
    backbone, _, new = make_inputs(job, folder)
    bf16 = job.get("bf16", True)
    dtype = torch.bfloat16 if bf16 else torch.float32
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(backbone, dtype=dtype)
    sizes = job["sizes"]
    per_rank = 3 * (sizes["hidden_size"] + sizes["ffn_size"]) * sizes["layers"]
    rank = round(FRACTION * unique_parameters(model) / per_rank)
    targets = ["gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    rows = open_rows(new)
    tokens = [torch.from_numpy(rows.tokens(range(i, i + 1))[0, :-1]) for i in range(len(rows))]
    ends: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    options = transformers.TrainingArguments(
        output_dir=str(folder / "peer"),
        per_device_train_batch_size=job["rows"],
        max_steps=job["steps"],
        learning_rate=5e-5,
        lr_scheduler_type="cosine",
        bf16=bf16,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
    )
    data = [{"input_ids": row_T, "labels": row_T} for row_T in tokens]
    trainer = transformers.Trainer(model=model, args=options, train_dataset=data, callbacks=[Clock()])
    trainer.train()
    timed = ends[WARM_UP - 1 :]
    speed = (len(timed) - 1) * job["rows"] * job["row_tokens"] / (timed[-1] - timed[0])
    return {"speed": speed, "memory": peak_memory_mib(torch.device("cpu"))}


def measure_loader(job: dict[str, Any], folder: Path) -> dict[str, float]:
    """Rows a second in batches, from the page cache: ours, and those of datasets with NumPy as format."""
    import datasets
    import pyarrow as pa

    from train.data.rows import open_rows
    from train.runs.options import Run
    from train.trainer.mixture import batches

    made = [
        random_rows(folder / f"{name}.arrow", LOADER_ROWS, LOADER_TOKENS, 49152, "") for name in ("old", "new")
    ]
    old, new = map(open_rows, made)
    steps = LOADER_ROWS // LOADER_BATCH
    options = Run(learning_rate=1.0, old_rate=OLD_RATE, steps=steps, batch_rows=LOADER_BATCH)

    def ours() -> int:
        return sum(len(batch.tokens_BT1) for batch in batches(0, options, old, new))

    streams = []
    for path in made:
        table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        with pa.ipc.new_stream(f"{path}s", table.schema) as sink:
            sink.write_table(table)
        streams.append(datasets.Dataset.from_file(f"{path}s").with_format("numpy"))
    mixed = datasets.interleave_datasets(streams, probabilities=[OLD_RATE, 1 - OLD_RATE], seed=0)

    def peer() -> int:
        taken = mixed.select(range(steps * LOADER_BATCH)).iter(LOADER_BATCH)
        return sum(len(batch["tokens"]) for batch in taken)

    return {name: rate(read) for name, read in (("ours", ours), ("peer", peer))}


def rate(read: Callable[[], int]) -> float:
    """Rows a second, at the second time: the first brings the file into the page cache."""
    read()
    started = time.perf_counter()
    return read() / (time.perf_counter() - started)


MEASURES = {"ours": measure_ours, "peer": measure_peer, "loader": measure_loader}


# Inputs -------------------------------------------------------------------------------------------


def make_inputs(job: dict[str, Any], folder: Path) -> tuple[str, str, str]:
    """A random backbone, and rows of the old and of the new domain that last for the whole training."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from models.backbone import create_llama, save_backbone
    from train.data.tokens import tokenizer_digest

    vocabulary = job["sizes"]["vocabulary"]
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="0"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0")  # noqa: S106
    model = create_llama(**job["sizes"], row_tokens=job["row_tokens"])
    save_backbone(model, tokenizer, folder / "backbone")
    count, digest = job["rows"] * job["steps"], tokenizer_digest(folder / "backbone")
    old, new = (
        random_rows(folder / f"{name}.arrow", count, job["row_tokens"], vocabulary, digest)
        for name in ("old", "new")
    )
    return str(folder / "backbone"), old, new


def random_rows(path: Path, count: int, row_tokens: int, vocabulary: int, digest: str) -> str:
    import numpy as np

    from train.data.packing import write_rows

    ids = np.random.default_rng(0).integers(1, vocabulary, count * row_tokens + 1)
    ids = ids.astype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    about = {"row_tokens": row_tokens, "vocabulary": vocabulary, "special_ids": [0], "tokenizer_sha256": digest}
    about["domain"] = path.stem
    ones = np.ones(len(ids), np.int64)
    write_rows(str(path), ids, ones, ones, row_tokens, None, about)
    return str(path)


if __name__ == "__main__":
    main()
