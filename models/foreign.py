"""Models from elsewhere, read as data: the config and the weights of a folder or a repository.

No file of it is code to run here, none is followed that is not asked for (an adapter beside the model, another
`generate`, a link out of the folder), and what its config describes is no larger than its weights.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.fit import check_pass, check_sizes, check_used, check_values
from models.quantised import check_plain, dequantise
from models.refusals import (
    NEVER,
    NO_CONFIG,
    NO_WEIGHTS,
    Refused,
    check_kind,
    check_quantised,
    check_text_alone,
    file_names,
    refuse,
    refuse_peft,
)

if TYPE_CHECKING:
    import torch

# Keys of a config that lead to code or to other files, for us or for who loads a copy; and those of classifiers.
LEADING = re.compile(
    r"__.*|auto_map|custom_pipelines|transformers_weights|configuration_files|(fusion|distributed)_config"
    r"|_?(attn|experts)_implementation\w*|_?name_or_path|_auto_class|num_labels|id2label|label2id"
    r"|quantization_config"
)
# Bounds far above what any decoder has: layers, or rounds of a loop; modules and weights; bytes of a file of JSON
# or text.
MOST_LAYERS, MOST_PARTS, MOST_BYTES = 1000, 2**16, 2**28
# Keys of layers and rounds, but not of a width such as vocab_size_per_layer_input.
COUNTS = re.compile("(?!.*(size|dim)).*(layer|cycle|loop|iter|pretraining_tp)")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


@contextlib.contextmanager
def as_data(what: str) -> Iterator[None]:
    """Turns what libraries raise on a hostile file into a ValueError of one line; OSError and Refused stay.

    A library that takes a file at its word fails in any way, and a panic of native code is no Exception. The line
    may quote the file: what would steer a terminal is left out.
    """
    try:
        yield
    except (OSError, Refused, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        kind = "" if isinstance(error, ValueError) or type(error) is Exception else f"{type(error).__name__}: "
        said = " ".join(str(error).split())[:500]
        raise ValueError(f"{what} ({kind}{''.join(filter(str.isprintable, said))})") from None


def check_folder(folder: str | Path) -> None:
    """Raises ValueError where a file is a link that leads out of the folder, no file yet, or too large for text.

    It would be read, and written into our copy. Weights may lie elsewhere: only tensors are taken from them. The
    hub's own cache is made of links to its blobs.
    """
    folder = Path(folder).resolve()
    homes = [folder, folder.parent.with_name("blobs")] if folder.parent.name == "snapshots" else [folder]
    for path in [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]:
        if not path.is_file():
            continue
        if path.suffix != ".safetensors" and not any(path.resolve().is_relative_to(home) for home in homes):
            raise ValueError(f"{path.name} is a link that leads out of {folder}; put the file itself there")
        if path.stat().st_size < 1000 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise Refused(f"{path.name} is a pointer of Git LFS, and not the file; fetch it with `git lfs pull`")
        if path.suffix in (".json", ".jinja", ".txt", ".model") and path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.name} has more than {MOST_BYTES >> 20} MiB; it is no part of a model")


def read_config(path: str, revision: str | None = None) -> Any:
    """The config of a model, by parse_config(). Raises OSError of transformers where there is no such model."""
    return _parsed(_read_json(path, revision), path)


def _read_json(path: str, revision: str | None) -> Any:
    """What config.json says. Raises ValueError where the folder is something else than a model."""
    names = file_names(path, revision)
    refuse(names, NEVER)
    refuse_peft(find(path, "adapter_config.json", revision, needed=False))
    file = find(path, "config.json", revision, needed=not names)
    if file is None:
        refuse(names, NO_CONFIG)
        raise ValueError(f"Unrecognized model in {path}: it has no config.json")
    if Path(path).is_dir():
        check_folder(path)
    with as_data("config.json cannot be read"):
        return json.loads(file.read_text(encoding="utf-8"))


def _parsed(data: Any, path: str) -> Any:
    with as_data("config.json cannot be read"):
        config = parse_config(data)
    config.name_or_path = path
    return config


def parse_config(data: Any) -> Any:
    """What a config.json says, as transformers knows it, without the keys that lead elsewhere.

    Raises ValueError where it has layers without bound, and anything where it makes no sense.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    data = data | data.get("neutral_residues", {}).get("decoder", {})  # of an export: the decoder's own
    if not isinstance(data["model_type"], str):
        raise ValueError("its model_type is no name")
    if "auto_map" in data and data["model_type"] not in CONFIG_MAPPING and "neutral_residues" not in data:
        raise Refused(
            "config.json: the model has code of its own, which is not run; take one that transformers has"
        )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(_own_keys(data)), encoding="utf-8")
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _own_keys(data: Any) -> Any:
    """A config, or a part of it, without LEADING keys."""
    if not isinstance(data, dict):
        return data
    check_quantised(data)
    check_counts(data)
    return {key: _own_keys(value) for key, value in data.items() if not LEADING.fullmatch(key)}


def check_counts(data: dict[str, Any]) -> None:
    """Raises ValueError where a config has more layers, or rounds of a loop, than any model; each takes time."""
    for key, value in data.items():
        if COUNTS.match(key) and isinstance(value, int) and value > MOST_LAYERS:
            raise ValueError(f"{key} is {value}, more than any model has")


def read_weights(path: str, revision: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a model's safetensors files, mapped into memory. Raises ValueError for damaged ones."""
    from safetensors.torch import load_file

    names = [WEIGHTS]
    if not find(path, WEIGHTS, revision, needed=False):
        if not (index := find(path, INDEX, revision, needed=False)):
            refuse(file_names(path, revision), NO_WEIGHTS)
        with as_data(f"{INDEX} cannot be read"):
            names = sorted(set(json.loads(Path(str(index)).read_text(encoding="utf-8"))["weight_map"].values()))
            if outside := [name for name in names if not SHARD.fullmatch(name)]:
                raise ValueError(f"{outside[0]!r} is no safetensors file of this folder")
    with as_data("damaged weights; delete them, also from the hub's cache"):
        found = {name: find(path, name, revision, needed=False) for name in names}
        if missing := [name for name, file in found.items() if file is None]:
            raise Refused(f"{INDEX} names {missing[0]}, which is not there; download it, too")
        return {key: tensor for file in found.values() for key, tensor in load_file(str(file)).items()}


def find(path: str, name: str, revision: str | None, needed: bool = True) -> Path | None:
    """A file of a folder, or of a repository, which is fetched; None where there is none and it is not needed.

    Raises OSError of transformers for one that is needed, and where the hub cannot be reached.
    """
    from transformers.utils.hub import cached_file

    file = cached_file(path, name, revision=revision or "main", _raise_exceptions_for_missing_entries=needed)
    return Path(file) if file else None


def sketch_decoder(config: Any) -> Any:
    """The decoder that a config describes, with the blocks of an export, on the `meta` device: without weights.

    Raises ValueError where it is none.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from models.modeling_neutral import Extended

    cannot = as_data("config.json does not describe a decoder that can be built")
    with cannot, _counting_parts(), torch.device("meta"):
        check_kind(config)
        plain: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        check_text_alone(plain.config)
        if not hasattr(plain.config, "neutral_residues"):
            return plain
        extended = type("ExtendedForCausalLM", (Extended, type(plain)), {"__module__": Extended.__module__})
        return extended(plain.config)


@contextlib.contextmanager
def _counting_parts() -> Iterator[None]:
    """Inside it, a model of more than MOST_PARTS modules and weights is a ValueError: each takes time."""
    from torch.nn.modules import module as torch_module

    numbers = itertools.count(1)

    def count(*part: Any) -> None:
        if next(numbers) > MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS:,} modules and weights")

    hooks = [
        torch_module.register_module_module_registration_hook(count),
        torch_module.register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read_decoder(path: str, revision: str | None, dtype: torch.dtype, attention: str) -> Any:
    """The decoder that a config describes, with the weights beside it, in eval mode.

    Raises ValueError where there is none, or weights are missing, which transformers would draw at random.
    """
    from models.extend import plain_name

    data = _read_json(path, revision)
    sketch = sketch_decoder(_parsed(data, path))
    weights = dequantise(read_weights(path, revision), data)
    added = getattr(sketch.config, "neutral_residues", None)
    if added and "decoder" not in added:  # an export of before, whose weights have the names of training
        weights = {plain_name(name, len(added["blocks"])): weight for name, weight in weights.items()}
    check_plain(sketch, weights)
    check_sizes(sketch, weights)
    # Gemma 2 caps what SDPA keeps to itself; some versions of transformers use SDPA then, without the cap.
    capped = getattr(sketch.config, "attn_logit_softcapping", None) is not None
    if attention == "sdpa" and (capped or not sketch._supports_sdpa):
        attention = "eager"
    with as_data("the weights do not fit config.json"):
        # Without a path transformers finds no file but these.
        model, report = type(sketch).from_pretrained(
            None, config=sketch.config, state_dict=weights, dtype=dtype, attn_implementation=attention,
            output_loading_info=True,
        )  # fmt: skip
    check_used(model, report["missing_keys"], {name: weights[name] for name in report["unexpected_keys"]})
    check_values(model)
    check_pass(model)
    model.config.name_or_path = model.name_or_path = path
    _read_generation_config(model, path, revision)
    return model


def _read_generation_config(model: Any, path: str, revision: str | None) -> None:
    """How the model generates by default, if the folder says so: settings, and no `generate` of its own."""
    from transformers import GenerationConfig

    if file := find(path, "generation_config.json", revision, needed=False):
        with as_data("generation_config.json cannot be read"):
            model.generation_config = GenerationConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
