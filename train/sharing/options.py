"""Options of publication."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.common.config import option
from train.runs.options import Export

# An owner's or a repository's name, as the hub takes it.
NAME = r"\w(?:[\w.-]{0,94}\w)?"
REPOSITORY = re.compile(rf"(?!.*(?:--|\.\.|\.git$)){NAME}/{NAME}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Publish(Export):
    """How a run is published on the hub."""

    repo: str = option(doc="repository of the hub, as OWNER/NAME")
    license: str = option("other", "licence, as the hub names them, of what was added to the backbone")
    push: bool = option(False, "upload the folder; it needs a token of the hub")
    private: bool = option(False, "whether a repository that the upload makes is for its owner alone")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not REPOSITORY.fullmatch(self.repo):
            what = "give OWNER/NAME of letters, digits, '-', '_' and '.', such as me/smollm2-fr"
            yield "repo", f"{self.repo!r:.200} is no repository of the hub; {what}"
