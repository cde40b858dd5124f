"""Attacks by archives, the pages in them, and plain text."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.attacks.run import Outcome, stage


def many_encodings(folder: Path) -> Outcome:
    """A record with 5,000 content encodings."""
    from pipeline.warc.encodings import undo

    _, problem = undo(b"a text that is not encoded", ["gzip, br"] * 2500)
    return problem == "too_many_encodings", problem or "all were tried"


def lone_surrogate_in_json(folder: Path) -> Outcome:
    """A lone surrogate in the URL of a JSON line."""
    lines = [{"text": "Une phrase. " * 30, "url": "https://a.example/\ud800"}, {"text": "Une autre phrase. " * 30}]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = stage(
        *("pipeline", "text", "--files", "in.jsonl", "--language-id", "none", "--text", "text", "--url", "url"),
        *("--language", "fr", "--languages", "fr", "--output", "pages/0.json", "--ledger", "pages/0.ledger.json"),
    )
    ledger = Path("pages/0.ledger.json")
    kept = json.loads(ledger.read_text())["kept"]["documents"] if done.returncode == 0 else 0
    return kept >= 1, f"status {done.returncode}, {kept} of 2 texts kept"
