"""The evidence for one model: bits per byte of every held-out domain, and a few texts that it writes."""

from __future__ import annotations

from typing import Any

import torch

from models.backbone import compute, load_tokenizer
from pipeline.cli import StageError
from pipeline.files import write_json
from pipeline.progress import progress
from train.options import Evaluate
from train.rows import open_rows
from train.score import load_run, pick_device, score_rows
from train.tokens import check_tokenizer, separators

BATCH_ROWS = 64


def evaluate(options: Evaluate, backbone: str, run: str | None, rows: list[str], output: str) -> None:
    """Measure the backbone, or the run on it, on `DOMAIN=PATH` rows, and continue the prompts."""
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    opened = {name: open_rows(path) for name, path in (pair.split("=", 1) for pair in rows)}
    for domain in opened.values():
        check_tokenizer(domain, backbone)
    model = load_run(backbone, run, device)
    measures = {}
    with progress(len(opened), "evaluate", "domains") as bar:
        for name, domain in opened.items():
            measures[name] = score_rows(model, domain, BATCH_ROWS, device)
            bar.update()
    texts = [
        {"prompt": prompt, "continuation": write(model, backbone, prompt, options.generated_tokens, device)}
        for prompt in options.prompts
    ]
    write_json(output, {"run": run, "domains": measures, "generations": texts})


def write(model: Any, backbone: str, prompt: str, tokens: int, device: torch.device) -> str:
    """The most probable continuation, token by token, within the length that the model was made for."""
    tokenizer = load_tokenizer(backbone)
    before, _ = separators(tokenizer)
    ids = torch.tensor([[*before, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]], device=device)
    room = min(tokens, model.config.max_position_embeddings - ids.shape[1])
    if room <= 0:
        raise StageError(f"evaluate.prompts: {prompt!r} leaves no room to continue; shorten it")
    with torch.no_grad(), compute(device, model):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            do_sample=False,
            repetition_penalty=1.1,
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
