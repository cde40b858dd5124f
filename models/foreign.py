"""Models from elsewhere, read as data: the config, the weights and the tokenizer of a folder or a repository.

No file of it is code to run here, none is followed that is not asked for (an adapter beside the model, another
`generate`, a link out of the folder), and what its config describes is no larger than its weights.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Keys of a config that lead to code or to other files, for us or for who loads a copy; and those of classifiers.
LEADING = re.compile(
    r"__.*|auto_map|custom_pipelines|transformers_weights|configuration_files|(fusion|distributed)_config"
    r"|_?(attn|experts)_implementation\w*|_?name_or_path|_auto_class|num_labels|id2label|label2id"
)
# Bounds far above what any decoder has: layers, or rounds of a loop; modules and weights; numbers computed from
# its config, such as masks; bytes of a file of JSON or text; characters that a tokenizer makes of one.
MOST_LAYERS, MOST_PARTS, MOST_BUFFERS, MOST_BYTES, MOST_GROWTH = 1000, 2**16, 2**28, 2**28, 100
# Keys of layers and rounds, but not of a width such as vocab_size_per_layer_input.
COUNTS = re.compile("(?!.*(size|dim)).*(layer|cycle|loop|iter|pretraining_tp)")
# Classes of a tokenizer that is its tokenizer.json alone; beside a config the model may say otherwise.
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


@contextlib.contextmanager
def as_data(what: str) -> Iterator[None]:
    """Turns what libraries raise on a hostile file into a ValueError of one line; OSError keeps its own words.

    A library that takes a file at its word fails in any way, and a panic of native code is no Exception. The line
    may quote the file: what would steer a terminal is left out.
    """
    try:
        yield
    except (OSError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        kind = "" if isinstance(error, ValueError) or type(error) is Exception else f"{type(error).__name__}: "
        said = " ".join(str(error).split())[:500]
        raise ValueError(f"{what} ({kind}{''.join(filter(str.isprintable, said))})") from None


def check_folder(folder: str | Path) -> None:
    """Raises ValueError where a file is a link that leads out of the folder, or too large for JSON or text.

    It would be read, and written into our copy. Weights may lie elsewhere: only tensors are taken from them. The
    hub's own cache is made of links to its blobs.
    """
    folder = Path(folder).resolve()
    homes = [folder, folder.parent.with_name("blobs")] if folder.parent.name == "snapshots" else [folder]
    for path in [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]:
        if path.suffix == ".safetensors" or not path.is_file():
            continue
        if not any(path.resolve().is_relative_to(home) for home in homes):
            raise ValueError(f"{path.name} is a link that leads out of {folder}; put the file itself there")
        if path.suffix in (".json", ".jinja", ".txt", ".model") and path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.name} has more than {MOST_BYTES >> 20} MiB; it is no part of a model")


def read_config(path: str, revision: str | None = None) -> Any:
    """The config of a model, by parse_config(). Raises OSError of transformers where there is no such model."""
    file = _find(path, "config.json", revision, needed=False)
    if file is None:
        raise ValueError(f"Unrecognized model in {path}: it has no config.json")
    if Path(path).is_dir():
        check_folder(path)
    with as_data("config.json cannot be read"):
        config = parse_config(json.loads(file.read_text(encoding="utf-8")))
    config.name_or_path = path
    return config


def parse_config(data: Any) -> Any:
    """What a config.json says, as transformers knows it, without the keys that lead elsewhere.

    Raises ValueError where it has layers without bound, and anything where it makes no sense.
    """
    from transformers import AutoConfig

    if not isinstance(data["model_type"], str):
        raise ValueError("its model_type is no name")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(_own_keys(data)), encoding="utf-8")
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _own_keys(data: Any) -> Any:
    """A config, or a part of it, without LEADING keys."""
    if not isinstance(data, dict):
        return data
    if data.get("quantization_config"):
        raise ValueError("quantised weights; take the model that they were made of, or a GGUF file")
    check_counts(data)
    return {key: _own_keys(value) for key, value in data.items() if not LEADING.fullmatch(key)}


def check_counts(data: dict[str, Any]) -> None:
    """Raises ValueError where a config has more layers, or rounds of a loop, than any model; each takes time."""
    for key, value in data.items():
        if COUNTS.match(key) and isinstance(value, int) and value > MOST_LAYERS:
            raise ValueError(f"{key} is {value}, more than any model has")


def read_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer of a folder or a repository, as transformers reads it for the model beside it.

    Raises ValueError where it is damaged.
    """
    from transformers import PreTrainedTokenizerFast

    if Path(path).is_dir():
        check_folder(path)
    # Of the tokenizers that are made here, there is no config.
    config = {"config": read_config(path, revision)} if _find(path, "config.json", revision, needed=False) else {}
    with as_data("its tokenizer cannot be read"):
        about = _tokenizer_config(path, revision)
        where: dict[str, Any] = {"revision": revision or "main"}
        if not config and about.get("tokenizer_class") in PLAIN_TOKENIZERS:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **where)
        else:
            from transformers import AutoTokenizer  # takes seconds to import

            _check_class(about.get("tokenizer_class") or "")
            _check_class(getattr(config.get("config"), "tokenizer_class", None) or "")
            tokenizer = AutoTokenizer.from_pretrained(path, **where, trust_remote_code=False, **config)
        # It would lead those who trust a copy's code to code of another repository.
        tokenizer.init_kwargs.pop("auto_map", None)
        _check_growth(tokenizer)
        return tokenizer


def _tokenizer_config(path: str, revision: str | None = None) -> dict[str, Any]:
    """What the files beside a tokenizer say of it. Raises ValueError where they lead to a file elsewhere.

    Their keys are arguments of the tokenizer's class, which opens some of these, and a copy would hold the text.
    """
    about: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = _find(path, name, revision, needed=False)
        for key, value in json.loads(file.read_text(encoding="utf-8") if file else "{}").items():
            opened = key in ("vocab", "merges", "vocab_file", "merges_file") and isinstance(value, str)
            versions = key == "fast_tokenizer_files" and "/" in str(value)
            if (opened and Path(value).is_file()) or versions or (value and key in ("gguf_file", "init_inputs")):
                raise ValueError(f"{key} in {name} leads to another file; take it out")
            about[key] = value
    return about


def _check_class(name: str) -> None:
    """Raises ValueError where a tokenizer's class is something else of transformers.

    That would read other files, and ask on the terminal whether to run code that lies there.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    for known in map(tokenizer_class_from_name, (name, name.removesuffix("Fast"))):
        if known is not None and not (isinstance(known, type) and issubclass(known, PreTrainedTokenizerBase)):
            raise ValueError(f"{name} is no class of a tokenizer")


def _check_growth(tokenizer: Any) -> None:
    """Raises ValueError where rules of a tokenizer make many characters of one.

    Five rules that each make 30 letters of the last one's letter would make gigabytes of a line.
    """
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        for rules in filter(None, (backend.normalizer, backend.decoder)):
            growth = _growth(json.loads(rules.__getstate__()))
            if growth > MOST_GROWTH:
                raise ValueError(f"its rules make {growth:,.0f} characters of one, more than any tokenizer does")


def _growth(rule: dict[str, Any]) -> float:
    """How many characters a rule may make of one."""
    if rule["type"] == "Replace":
        return max(1, len(rule["content"]) / max(1, len(rule["pattern"].get("String", ""))))
    if rule["type"] == "Precompiled":  # a table, whose size comes first, and the texts that it leads to
        table = base64.b64decode(rule["precompiled_charsmap"])
        texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
        return max(1, *(len(text.decode(errors="replace")) for text in texts))
    parts = rule.get("normalizers") or rule.get("decoders") or []
    return math.prod(map(_growth, parts)) * max(1, len(rule.get("prepend", "")))


def read_weights(path: str, revision: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a model's safetensors files, mapped into memory. Raises ValueError for damaged ones."""
    from safetensors.torch import load_file

    names = [WEIGHTS]
    if not _find(path, WEIGHTS, revision, needed=False):
        with as_data(f"{INDEX} cannot be read"):
            index = json.loads(Path(str(_find(path, INDEX, revision))).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
            if outside := [name for name in names if not SHARD.fullmatch(name)]:
                raise ValueError(f"{outside[0]!r} is no safetensors file of this folder")
    with as_data("damaged weights; delete them, also from the hub's cache"):
        files = [str(_find(path, name, revision)) for name in names]
        return {key: tensor for file in files for key, tensor in load_file(file).items()}


def _find(path: str, name: str, revision: str | None, needed: bool = True) -> Path | None:
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
        plain: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
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
    """The decoder that a config describes, with the weights beside it.

    Raises ValueError where there is none, or weights are missing, which transformers would draw at random.
    """
    sketch = sketch_decoder(read_config(path, revision))
    weights = read_weights(path, revision)
    _check_sizes(sketch, weights)
    with as_data("the weights do not fit config.json"):
        # Without a path transformers finds no file but these.
        model, report = type(sketch).from_pretrained(
            None, config=sketch.config, state_dict=weights, dtype=dtype, attn_implementation=attention,
            output_loading_info=True,
        )  # fmt: skip
    if missing := report["missing_keys"]:
        raise ValueError(
            f"{len(missing)} weights of a {type(model).__name__} are not there, such as {min(missing)}"
        )
    model.config.name_or_path = model.name_or_path = path
    _read_generation_config(model, path, revision)
    return model


def _read_generation_config(model: Any, path: str, revision: str | None) -> None:
    """How the model generates by default, if the folder says so: settings, and no `generate` of its own."""
    from transformers import GenerationConfig

    if file := _find(path, "generation_config.json", revision, needed=False):
        with as_data("generation_config.json cannot be read"):
            model.generation_config = GenerationConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))


def _check_sizes(sketch: Any, weights: dict[str, torch.Tensor]) -> None:
    """Raises ValueError where the model would take more memory than its files account for."""
    described = sum(parameter.numel() for parameter in sketch.parameters())
    held = sum(tensor.numel() for tensor in weights.values())
    computed = sum(buffer.numel() for buffer in sketch.buffers())
    if described > held:
        raise ValueError(f"config.json describes {described:,} weights, and there are {held:,}")
    if computed > MOST_BUFFERS:
        raise ValueError(f"config.json describes {computed:,} numbers beside the weights, more than any model has")
