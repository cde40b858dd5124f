"""A run as a folder for the hub: the model, what was added alone, a card and checksums; and its upload."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from models.adapter import is_plain_lora
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder
from pipeline.common.language_codes import iso_code
from pipeline.publish.publish import check_output, corpus_counts, folder_bytes, read_card, write_sums
from train.runs.export import Extended, read_extended, write_adapter, write_model
from train.sharing.card import Card, Corpus, model_card, read_measures
from train.sharing.options import Publish
from train.sharing.upload import check_token, upload

log = logging.getLogger(__name__)
ADAPTER = "adapter"


def publish(
    options: Publish, run: str, backbone: str | None, evaluations: list[str], corpus: list[str], output: str
) -> None:
    """Write the folder, whole or not at all, and print how to upload it, or upload it.

    evaluations, corpus: the backbone's and the run's (evaluate), and the folders of the text that it was trained
    on, for the card. Raises StageError where the run is not finished, does not fit the backbone or was trained on
    other languages, `output` is there and is no earlier publication, or the hub does not take it.
    """
    check_output(output)
    if options.push:
        check_token()
    measures, extended = read_measures(evaluations), read_extended(run, backbone)
    corpora = [_read_corpus(path, extended) for path in corpus]
    with atomic_folder(output) as folder:
        why, has_code = None, False
        if in_peft_format(extended) and not options.gguf:
            write_adapter(extended, folder)
        else:
            twin = write_model(options, extended, folder)
            why, has_code = twin.why, twin.has_code
            # Finetuning adds nothing small: it changes all weights.
            if all(one.extend_options["method"] != "finetune" for one in extended.added):
                (folder / ADAPTER).mkdir()
                write_adapter(extended, folder / ADAPTER)
        card = Card(extended, why, has_code, measures, corpora, options.repo, options.license)
        (folder / "README.md").write_text(model_card(card, folder), encoding="utf-8")
        write_sums(folder)
    log.info("%s: %.1f MB; its card is README.md", output, folder_bytes(output) / 1e6)
    command = ["hf", "upload", options.repo, output, *(["--private"] if options.private else [])]
    if options.push:
        upload(output, options.repo, options.private, shlex.join(command))
    else:
        print(shlex.join(command))


def in_peft_format(extended: Extended) -> bool:
    """Whether the run is published as an adapter of peft alone: a plain LoRA, on a backbone that others can have.

    The folded model is not beside it: where an adapter_config.json lies, transformers adds the adapter to the
    weights of the folder, in which it is already.
    """
    return is_plain_lora(extended.added) and extended.named["revision"] is not None


def _read_corpus(path: str, extended: Extended) -> Corpus:
    """What of a corpus is in the languages of the run. Raises StageError where that is nothing."""
    counts = corpus_counts(path)
    header, _ = read_card(Path(path, "README.md").read_text(encoding="utf-8"))
    wanted = {language for one in extended.added for language in one.languages}
    rows = [
        (iso_code(language), split, found.documents, found.bytes)
        for language, splits in counts.items()
        for split, found in splits.items()
        if iso_code(language) in wanted
    ]
    if not rows:
        has, asked = ", ".join(counts) or "nothing", ", ".join(sorted(wanted)) or "unknown languages"
        raise StageError(f"--corpus {path}: has {has}, and the run was trained on {asked}; give its own corpus")
    license = header.get("license")
    return Corpus(rows, license if isinstance(license, str) else None)
