"""The evidence for one model: bits per byte of every held-out domain, what changed against the backbone, and a
few texts that it writes.
"""

from __future__ import annotations

import logging
import tempfile

import torch

from models.block import close_gates
from pipeline.common.progress import progress
from train.data.rows import check_length, paths_by_name
from train.data.texts import open_corpus
from train.data.tokens import check_tokenizer, open_tokenizer
from train.evaluation.bits_per_byte import rows_to_score, score_rows
from train.evaluation.change import measure_change
from train.evaluation.options import Evaluate
from train.evaluation.speed import measure_speed
from train.runs.generate import write
from train.runs.load import load_for, load_run, measuring_device
from train.runs.options import Generate
from train.runs.results import Change, Evaluation, Generation, Measure, write_result

BATCH_ROWS = 64

log = logging.getLogger(__name__)


def evaluate(
    options: Evaluate, backbone: str, run: str | None, rows: list[str], output: str, speed: str | None
) -> None:
    """Measure the backbone, or the run on it, on `DOMAIN=PATH` rows or texts, and continue the prompts.

    speed: file to write its speed beside the backbone's to, apart from the measures, since it differs each time.
    It is that on `options.forgetting`, or else the first domain, and on `options.learning`, if it is there.
    """
    torch.set_num_threads(options.threads)
    device = measuring_device(options.device)
    paths = paths_by_name("--rows", rows)
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays when it is gone
        opened = {name: open_corpus(path, backbone, f"{folder}/{name}") for name, path in paths.items()}
    model = load_run(backbone, run, device)
    close_gates(model, options.gate_threshold)
    for domain in opened.values():
        check_tokenizer(domain, backbone)
        check_length(domain, model, backbone)
    plain = model if run is None else load_for(backbone, device)
    measures: dict[str, Measure] = {}
    change: dict[str, Change] = {}
    with progress(sum(map(rows_to_score, opened.values())), "evaluate", "rows") as bar:
        for name, domain in opened.items():
            measures[name] = Measure(**score_rows(model, domain, BATCH_ROWS, device, scored=bar.update))
    if run is not None:
        for name, domain in opened.items():
            log.info("comparing the predictions on %s with the backbone's", name)
            change[name] = measure_change(plain, model, domain, device)
    log.info("continuing %d prompts", len(options.prompts))
    tokenizer, sampling = open_tokenizer(backbone), Generate(tokens=options.generated_tokens)
    texts = [Generation(prompt=x, continuation=write(model, tokenizer, x, sampling)) for x in options.prompts]
    if speed:
        log.info("measuring the speed")
        models = {"backbone": plain} | ({} if run is None else {"run": model})
        old = options.forgetting if options.forgetting in opened else next(iter(opened))
        new = opened.get(options.learning) if options.learning != old else None
        write_result(speed, measure_speed(models, opened[old], new, device))
    write_result(output, Evaluation(run=run, domains=measures, change=change, generations=texts))
