"""Backbones: a small Llama made here, or any decoder of the Hugging Face hub or of a folder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.foreign import as_data, check_counts, read_decoder
from models.saving import saving
from models.tokenizers import read_tokenizer

# Products are in bf16 wherever it is fast: on a CPU with AVX512-BF16 five times as fast as fp32.
COMPUTE = torch.bfloat16


def attention_on(device: torch.device) -> str:
    """transformers' name of the fastest attention: eager on a CPU, where SDPA takes thrice as long in bf16."""
    return "sdpa" if device.type == "cuda" else "eager"


def compute_dtype(device: torch.device) -> torch.dtype:
    """COMPUTE, but fp32 on a CPU without instructions for it, where bf16 has a thirtieth of the speed."""
    emulated = device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()
    return torch.float32 if emulated else COMPUTE


def compute(device: torch.device, model: nn.Module | None = None) -> contextlib.AbstractContextManager[Any]:
    """The autocast to bf16 that training and measuring share, so that they agree.

    No autocast where compute_dtype() is fp32 and so are all weights of `model`.
    """
    weights = model.parameters() if model is not None and compute_dtype(device) == torch.float32 else ()
    if model is not None and {weight.dtype for weight in weights} == {torch.float32}:
        return contextlib.nullcontext()
    return torch.autocast(device.type, COMPUTE)


def create_llama(
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    ffn_size: int,
    vocabulary: int,
    row_tokens: int,
    bos: int | None = None,
    eos: int | None = None,
    seed: int = 0,
    attention: str = "eager",
) -> Any:
    """A Llama with random fp32 weights and tied embeddings; `row_tokens` is the longest text it will see."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=ffn_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=row_tokens,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    config._attn_implementation = attention
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def load_backbone(
    path: str, revision: str | None = None, dtype: torch.dtype = COMPUTE, attention: str = "eager"
) -> Any:
    """A decoder of the hub or of a folder, in eval mode. Safetensors only, and all of it is data: no code is run.

    attention: attention_on() of the device that it will be on.
    Raises ValueError or OSError of transformers where the path holds no decoder that foreign.read_decoder() takes.
    """
    # Of a commit, all files belong together.
    commit = find_commit(path, revision)
    with network_errors():
        return read_decoder(path, commit, dtype, attention)


def find_commit(path: str, revision: str | None = None) -> str | None:
    """The commit of a hub id that `revision` (None: main) is now; of a folder, the revision as it is.

    Raises OSError of transformers where the hub has no such model or revision, or cannot be reached.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id
    from transformers.utils.hub import cached_file, extract_commit_hash

    if Path(path).is_dir():
        return revision
    try:
        validate_repo_id(path)
    except HFValidationError:
        raise OSError("no such folder, and no id of the hub (owner/name); give one that is there") from None
    with network_errors():
        config = cached_file(
            path, "config.json", revision=revision or "main", _raise_exceptions_for_missing_entries=False
        )
    return extract_commit_hash(config, None) or revision


@contextlib.contextmanager
def network_errors() -> Iterator[None]:
    """Turns errors of the hub's HTTP client into OSError.

    They are of another class, and transformers lets some of them through and hides others behind its own message.
    """
    from huggingface_hub.utils import httpx

    try:
        yield
    except Exception as error:
        for cause in (error, error.__context__):
            if isinstance(cause, httpx.TransportError):
                raise OSError(f"{cause}; check the network, and run again") from error
        raise


def convert_gguf(path: str, folder: str) -> None:
    """Write the decoder of a GGUF file, dequantised to bf16, and its tokenizer as a folder of load_backbone().

    Raises ValueError or OSError of transformers where it is no GGUF file of an architecture it reads. Its reader
    believes what a file says of its sizes: give it files from elsewhere in a process of its own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    damaged = as_data("a damaged GGUF file, or one that transformers does not read")
    with tempfile.TemporaryDirectory() as alone, damaged:
        # Beside other files in its folder, transformers would follow those.
        Path(alone, "model.gguf").symlink_to(Path(path).resolve())
        where: dict[str, Any] = {"gguf_file": "model.gguf", "trust_remote_code": False}
        plain: dict[str, Any] = {
            "dtype": COMPUTE,
            "quantization_config": GgufConfig(dequantize=True),
            "attn_implementation": "eager",
        }
        check_counts(AutoConfig.from_pretrained(alone, **where).to_dict())
        model = AutoModelForCausalLM.from_pretrained(alone, **where, **plain)
        tokenizer = AutoTokenizer.from_pretrained(alone, **where)
    # What is saved is a plain model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    save_backbone(model, tokenizer, folder)


def save_backbone(
    model: Any, tokenizer: Any, folder: str | Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Model (in bf16, as it will be loaded) and tokenizer as a folder that transformers loads.

    weights: its state, where the model's own is spread over several processes. Raises ValueError where config,
    generation_config or tokenizer are none that transformers saves.
    """
    state = {name: weight.detach().to(COMPUTE) for name, weight in (weights or model.state_dict()).items()}
    model.config.dtype = COMPUTE
    with as_data("it cannot be saved"), saving(folder):
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub id or a folder."""
    with network_errors():
        return read_tokenizer(path, revision)


def unique_parameters(model: nn.Module) -> int:
    """Number of weights of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_digest(model: nn.Module) -> str:
    """A hash of names, shapes and samples of all weights: two different backbones have different ones.

    Of the weights in COMPUTE, whatever they are loaded in. No sums, whose last bits would depend on the number of
    threads.
    """
    import hashlib

    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {_sketch(weight)}".encode())
    return digest.hexdigest()[:16]


def _sketch(weight: Tensor) -> list[float]:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // 256)].to(COMPUTE).double().tolist()
