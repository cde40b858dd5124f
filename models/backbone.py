"""Backbones: a small Llama made here, or any decoder of the Hugging Face hub or of a folder."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

# Products are in bf16 wherever it is fast: on a CPU with AVX512-BF16 five times as fast as fp32.
COMPUTE = torch.bfloat16
# An export's code, and the entry of its config that leads there.
EXPORTED = "modeling_neutral.py"
EXPORTED_CLASS = {"AutoModelForCausalLM": "modeling_neutral.ExtendedForCausalLM"}


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
    """A decoder of the hub or of a folder, in eval mode. Safetensors only; no code is run but an export's own.

    attention: attention_on() of the device that it will be on.
    Raises ValueError or OSError of transformers where the path holds no decoder, and ValueError where weights
    are missing, which transformers would draw at random.
    """
    from transformers import AutoModelForCausalLM

    # Of main, if it has no safetensors, transformers asks a bot of the hub to make some; of a commit it does not.
    commit = find_commit(path, revision)
    try:
        with network_errors():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                revision=commit or "main",
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=is_own_export(path),
                attn_implementation=attention,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise ValueError(f"damaged weights ({error}); delete them, also from the hub's cache") from None
    model, missing = loaded[0], loaded[1]["missing_keys"]
    if missing:
        raise ValueError(
            f"{len(missing)} weights of a {type(model).__name__} are not there, such as "
            f"{min(missing)}; an export whose code is not this version's is tried by its run, or by transformers"
        )
    return model.eval()


def is_own_export(folder: str | Path) -> bool:
    """Whether the folder is an export with code (models/export.py), and that code is ours to the letter.

    Nothing else is fit to be run: a folder may come from anybody.
    """
    folder = Path(folder)
    if not (folder / EXPORTED).is_file():
        return False
    code = re.sub(r"import \w+ as Decoder", "import LlamaForCausalLM as Decoder", (folder / EXPORTED).read_text())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = Path(__file__).with_name(EXPORTED).read_text(encoding="utf-8")
    return code == own and config.get("auto_map") == EXPORTED_CLASS


def find_commit(path: str, revision: str | None = None) -> str | None:
    """The commit of a hub id that `revision` (None: main) is now; of a folder, the revision as it is.

    Raises OSError of transformers where the hub has no such model or revision, or cannot be reached.
    """
    from transformers.utils.hub import cached_file, extract_commit_hash

    with network_errors():
        config = cached_file(path, "config.json", revision=revision or "main")
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


def load_gguf(path: str | Path) -> tuple[Any, Any]:
    """The decoder of a GGUF file, dequantised to bf16, in eval mode, and its tokenizer.

    Raises ValueError or OSError of transformers where it is no GGUF file of an architecture it reads.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(Path(path).parent), "gguf_file": Path(path).name}
    plain: dict[str, Any] = {
        "dtype": COMPUTE,
        "quantization_config": GgufConfig(dequantize=True),
        "attn_implementation": "eager",
    }
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, **plain)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (struct.error, LookupError, RuntimeError) as error:
        raise ValueError(f"a damaged GGUF file, or one that transformers does not read ({error})") from None
    # What is saved is a plain model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval(), tokenizer


def save_backbone(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Model (in bf16, as it will be loaded) and tokenizer as a folder that transformers loads."""
    state = {name: weight.detach().to(COMPUTE) for name, weight in model.state_dict().items()}
    model.config.dtype = COMPUTE
    model.save_pretrained(folder, state_dict=state)
    make_readable(folder)
    tokenizer.save_pretrained(folder)


def make_readable(folder: str | Path) -> None:
    """Let all users read the weights in `folder`: safetensors writes them for their owner alone."""
    for path in Path(folder).glob("*.safetensors"):
        path.chmod(0o644)


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub id or a folder."""
    from transformers import AutoTokenizer

    with network_errors():
        return AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)


def unique_parameters(model: nn.Module) -> int:
    """Number of weights of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_digest(model: nn.Module) -> str:
    """A hash of names, shapes and samples of all weights: two different backbones have different ones.

    No sums, whose last bits would depend on the number of threads.
    """
    import hashlib

    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {_sketch(weight)}".encode())
    return digest.hexdigest()[:16]


def _sketch(weight: Tensor) -> list[float]:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // 256)].double().tolist()
