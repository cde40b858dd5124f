"""How the workflow was called: the words of the command line, and where from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.common.config import ConfigError, bad_path
from pipeline.common.yaml_file import load_yaml, parse_value


def read_configs(paths: Iterable[str], words: Iterable[str]) -> dict[str, Any]:
    """The config files and the words of `--config`, each over those before it, as Snakemake merges them.

    Snakemake has read them by then, but says nothing of a key that stands twice, and takes the numbers inside
    `--config tokens={row_tokens: 64}` for texts. Raises ConfigError.
    """
    config: dict[str, Any] = {}
    for path in paths:
        if problem := bad_path(path):
            raise ConfigError(problem)
        config = _merged(config, load_yaml(path))
    for word in words:
        key, _, text = word.partition("=")
        try:
            config = _merged(config, {key: parse_value(text.encode())})
        except ConfigError as error:
            raise ConfigError(f"--config {key}: {error}; write it as in the file, and quote texts") from None
    return config


def _merged(old: Any, new: Any) -> Any:
    """`new` over `old`: mappings key by key, whatever else as a whole.

    >>> _merged({"a": {"x": 1, "y": [1]}}, {"a": {"y": [2]}})
    {'a': {'x': 1, 'y': [2]}}
    """
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def job_environment(checkout: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which jobs run the code of this checkout with this Python, whatever folder they run in.

    The project need not be installed, or may be from another checkout, and the folder may have a `train.py` of its
    own, which `python -m` would take. Raises ConfigError where no variable can hold the path.
    """
    if os.pathsep in checkout:
        raise ConfigError(
            f"{checkout!r}: no {os.pathsep!r} in the path of the code, at which Python splits it; rename it"
        )
    added = {"PYTHONPATH": checkout, "PATH": os.path.dirname(sys.executable)}  # noqa: PTH120 - not of its target
    known = {name: environment.get(name, "").split(os.pathsep) for name in added}
    # One that is there already stays at its place.
    paths = {
        name: os.pathsep.join(filter(None, known[name] if path in known[name] else [path, *known[name]]))
        for name, path in added.items()
    }
    return paths | {"PYTHONSAFEPATH": "1"}
