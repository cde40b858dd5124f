"""A run exported with its card: a folder for this machine, or to be passed on by hand."""

from __future__ import annotations

import logging

from pipeline.common.files import atomic_folder
from train.runs.export import read_extended, write_model
from train.runs.options import Export
from train.sharing.card import Card, model_card, read_measures

log = logging.getLogger(__name__)


def export_run(
    options: Export,
    run: str,
    backbone: str | None,
    evaluations: list[str],
    output: str,
    gate_threshold: float = 0.0,
) -> None:
    """Write the extended model as a folder that transformers loads, with a model card.

    evaluations: the backbone's and the run's (evaluate), for the card. gate_threshold: that of the model, and of
    these evaluations. Raises StageError where the run is not finished or does not fit the backbone.
    """
    measures, extended = read_measures(evaluations), read_extended(run, backbone)
    with atomic_folder(output) as folder:
        twin = write_model(options, extended, folder, gate_threshold)
        card = Card(extended, twin.why, twin.has_code, measures)
        (folder / "README.md").write_text(model_card(card, folder), encoding="utf-8")
    log.info("%s: %s (%s)", output, type(twin.model).__name__, twin.why)
    trust = ", trust_remote_code=True" if twin.has_code else ""
    log.info("%s: load it with AutoModelForCausalLM.from_pretrained(%r%s)", output, output, trust)
