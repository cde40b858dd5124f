"""What lies in a folder that is used by itself: a corpus, a run.

Apart from layout.py, which has the whole result folder: the stages import this, and their code is what decides
whether they run again (fingerprint.py). A new path of a result folder must not train anything again.
"""

from __future__ import annotations

from pathlib import Path

RUN_RECORD, WEIGHTS, METRICS = "run.json", "weights.safetensors", "metrics.jsonl"
PRETRAINING_RECORD = "training.json"


def shard_path(corpus: str | Path, language: str, split: str, batch: str) -> Path:
    """A shard of a corpus.

    >>> str(shard_path("corpus", "fr", "train", "00000"))
    'corpus/fr/train-00000.arrow'
    """
    return Path(corpus, language, f"{split}-{batch}.arrow")
