"""Backbones that later stages cannot use: what a folder or a config is instead, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Each table: the pattern of a file's name, what a folder with such a file is, and the cure; the first one counts.
Table = tuple[tuple[str, str, str], ...]

CONVERT = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) of transformers, and give NEW"
PLAIN = "take the model that they were made of, or a GGUF file of it"
# Quantised weights that transformers turns into plain ones by itself.
UNPACK = "unpack them with transformers, AutoModelForCausalLM.from_pretrained(FOLDER{})"
UNPACKED = {
    "bitsandbytes": UNPACK.format("") + ".dequantize().save_pretrained(NEW), and give NEW; better, " + PLAIN,
    "mxfp4": UNPACK.format(", quantization_config=Mxfp4Config(dequantize=True)")
    + ".save_pretrained(NEW), and give NEW",
}
ORIGINAL = "take the model in transformers' format, with config.json and safetensors"
MERGE_SHARDS = "make one model of its shards (DeepSpeed: its zero_to_fp32.py; FSDP: `accelerate merge-weights`)"
# Whatever else is there: a whole model beside it is not what the folder is for.
NEVER: Table = (
    (r"adapter\.json", "an adapter saved by this toolkit", "give its backbone, and its run as `base`"),
    (r"model_index\.json", "a pipeline of diffusers, which makes images", "take a language model"),
    (
        r"modules\.json|config_sentence_transformers\.json",
        "a model of sentence-transformers, which makes one vector of a text",
        "take the language model that it was made of",
    ),
    (
        r"(hf_)?(quantize|quant|quantization)_config\.json|qmodel\.pt|quanto_qmap\.json",
        "quantised weights",
        PLAIN,
    ),
)
CHECKPOINTS: Table = (
    (r"step-\d+\.safetensors", "checkpoints of this toolkit's training", "finish it, and give its run as `base`"),
    (r"global_step\d+|pytorch_model_fsdp.*|.*\.distcp|zero_to_fp32\.py", "a training's shards", MERGE_SHARDS),
)
WEIGHTS_OF_OTHERS: Table = (
    (r".*\.gguf|.*\.llamafile", "a GGUF file in a folder", "give that file (FOLDER/NAME.gguf) and not its folder"),
    (
        r"pytorch_model.*\.bin(\.index\.json)?",
        "weights as pickles, which can run code",
        f"if you trust them, convert them to safetensors with {CONVERT}",
    ),
    (r"consolidated\..*|params\.json|tekken\.json", "weights in their maker's own format", ORIGINAL),
    (
        r".*\.h5|.*\.keras|saved_model.*|.*\.msgpack|ckpt.*|.*\.orbax.*",
        "weights of TensorFlow or JAX",
        "convert them to safetensors with transformers 4: from_pretrained(FOLDER, from_tf=True or from_flax=True)"
        ".save_pretrained(NEW), and give NEW",
    ),
    (r".*\.npz|weights\.\d+\.safetensors", "weights of MLX", ORIGINAL),
    (
        r".*onnx.*|openvino.*|.*\.(tflite|task|litertlm|mlpackage|mlmodelc?|engine|plan|trt|nemo|ot|bundle)",
        "a model converted for one program, which cannot be trained on",
        f"take what it was made of: {ORIGINAL.removeprefix('take ')}",
    ),
    (
        r"adapter_model\..*",
        "an adapter of peft without its adapter_config.json",
        "merge it into its model with peft",
    ),
    (r"optimizer\..*|trainer_state\.json|scheduler\.pt", "a training's state without its model", ORIGINAL),
    (
        r".*\.(pt|pth|ckpt|bin|pkl)",
        "weights as pickles, which can run code",
        "write them as safetensors with the program that made them: model.save_pretrained(NEW), and give NEW",
    ),
    (
        r".*\.safetensors",
        "weights under another name than model.safetensors",
        f"if it is one whole model, rename it; if they are shards, write their index with {CONVERT}",
    ),
)
NO_CONFIG: Table = (
    (r"run\.json", "the folder of a run", "give its backbone, and the run as `base`"),
    *CHECKPOINTS,
    *WEIGHTS_OF_OTHERS,
    (r"tokenizer.*|vocab.*|.*\.model", "a tokenizer alone", "put the model's files beside it"),
)
NO_WEIGHTS: Table = (
    *CHECKPOINTS,
    *WEIGHTS_OF_OTHERS,
    (r"config\.json", "a config without weights", "download model.safetensors, too"),
)
# Entries of a config that say how weights are packed.
QUANTISED = ("quantization_config", "compression_config", "quantization", "quant_config")
BITS = ("load_in_4bit", "load_in_8bit")
# Adapters of peft that are no change of weights, and so cannot be merged into them.
UNMERGEABLE = re.compile(r".*PROMPT.*|P_TUNING|PREFIX_TUNING|CPT|XLORA|POLY", re.IGNORECASE)


class Refused(ValueError):
    """A folder or a config that is no backbone; the message says what it is, and what to do."""


def said(value: Any) -> str:
    """A value of a foreign file in quotes, as one short line that steers no terminal.

    >>> said("a\\x1b[2Jb\\nc")
    "'a[2Jb c'"
    """
    return repr("".join(filter(str.isprintable, " ".join(str(value).split())))[:100])


def file_names(path: str, revision: str | None) -> list[str]:
    """Names of the files and folders at the top of a folder, or of a repository.

    Of a repository that cannot be asked, those in the hub's cache.
    """
    if Path(path).is_dir():
        return sorted(entry.name for entry in Path(path).iterdir())
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx
    from transformers.utils.hub import cached_file

    try:
        files = HfApi().model_info(path, revision=revision).siblings or []
        return sorted({file.rfilename.partition("/")[0] for file in files})
    except (OSError, ValueError, httpx.HTTPError, HfHubHTTPError):
        known = cached_file(
            path, "config.json", revision=revision or "main", local_files_only=True,
            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        return sorted(file.name for file in Path(known).parent.iterdir()) if known else []


def refuse(names: Iterable[str], table: Table) -> None:
    """Raises Refused where a file is one of the table's."""
    names = sorted(names)
    for pattern, what, cure in table:
        for name in names:
            if re.fullmatch(pattern, name):
                raise Refused(f"{said(name)[1:-1]} is there: {what}; {cure}")


def refuse_peft(file: Path | None) -> None:
    """Raises Refused where there is an adapter_config.json of peft; it says how it is merged."""
    if file is None:
        return
    try:
        with file.open(encoding="utf-8") as opened:
            about = json.loads(opened.read(2**20))
        kind, base = about.get("peft_type"), about.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        kind = base = None
    cure = "merge it: peft's AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload()"
    cure += ".save_pretrained(NEW), put the tokenizer beside, and give NEW"
    if UNMERGEABLE.fullmatch(str(kind)):
        cure = "it adds no weights that could be merged: give its base model itself"
    about_base = f" for {said(base)}" if base else ""
    raise Refused(f"adapter_config.json: an adapter of peft ({said(kind)}){about_base}, no model; {cure}")


def quantisation(data: dict[str, Any]) -> Any:
    """What a config, or a part of it, says of how its weights are packed; None where they are not."""
    entries = [data[key] for key in QUANTISED if data.get(key)]
    return entries[0] if entries else {"quant_method": "bitsandbytes"} if any(map(data.get, BITS)) else None


def check_quantised(data: dict[str, Any]) -> None:
    """Raises Refused where a config, or a part of it, says that weights are packed in a way not read here."""
    about = quantisation(data)
    if about is not None and not is_fp8(about):
        kind = about.get("quant_method") if isinstance(about, dict) else about
        if kind is None and any(map(about.get, BITS)):
            kind = "bitsandbytes"
        named = said(kind or "of an unknown method")[1:-1]
        raise Refused(f"config.json: quantised weights ({named}); {UNPACKED.get(named, PLAIN)}")


def is_fp8(about: Any) -> bool:
    """Whether weights are float8_e4m3fn with a scale for each block or tensor (models/quantised.py)."""
    return isinstance(about, dict) and about.get("quant_method") == "fp8" and not any(map(about.get, BITS))


def check_kind(config: Any) -> None:
    """Raises Refused where a config of transformers is of no decoder of text."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = said(config.model_type)[1:-1]
    if getattr(config, "is_encoder_decoder", False):
        raise Refused(f"config.json: {kind} is an encoder-decoder; take a model that is a decoder alone")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        check_text_alone(config)
        raise Refused(
            f"config.json: {kind} is no decoder of text, but an encoder or a model of another kind; "
            "take a model that transformers loads with AutoModelForCausalLM"
        )


def check_text_alone(config: Any) -> None:
    """Raises Refused where a text decoder is one part of a model of images or sounds; it says how to take it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    if text is config:
        return
    cure = "transformers has no decoder of its own for that part; take a model of text alone"
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        cure = (
            "save its text decoder alone: whole = AutoModelForMultimodalLM.from_pretrained(FOLDER, dtype='auto'); "
            "text = AutoModelForCausalLM.from_config(whole.config.get_text_config(), dtype=whole.dtype); "
            "text.get_decoder().load_state_dict(whole.get_decoder().state_dict()); "
            "text.get_output_embeddings().load_state_dict(whole.get_output_embeddings().state_dict()); "
            "text.save_pretrained(NEW); AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW), and give NEW"
        )
    kinds = [said(one.model_type)[1:-1] for one in (config, text)]
    raise Refused(
        f"config.json: {kinds[0]} is a model of images or sounds beside text, around a {kinds[1]}; {cure}"
    )
