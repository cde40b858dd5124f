"""What llama.cpp computes of a GGUF file: its own server, in this process (package xllamacpp)."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class LlamaCpp:
    """A model that llama.cpp has loaded. Token ids are given and taken as they are, without a beginning."""

    def __init__(self, address: str) -> None:
        self.address = address
        # Drawn always: behind a token that is half a character the server says nothing yet.
        self.drawn = self.tokenize("a", around=False)[-1]

    def log_probs(self, tokens: Sequence[int]) -> Tensor:
        """Of each prefix of the tokens: log-probabilities (T, V) of the next token."""
        return torch.stack([self.next_log_probs(tokens[: end + 1]) for end in range(len(tokens))])

    def log_probs_of(self, tokens: Sequence[int]) -> list[float]:
        """Log-probabilities of each token but the first, behind those before it."""
        found = []
        for end in range(1, len(tokens)):
            # The next token is drawn whatever its probability, and so it is the one that is told of.
            options = {"n_predict": 1, "n_probs": 1, "logit_bias": [[tokens[end], 1e9]], "cache_prompt": True}
            answer = self._post("/completion", {"prompt": list(tokens[:end]), "temperature": 0, **options})
            steps = answer.get("completion_probabilities")  # none behind a part of a character
            found.append(steps[0]["logprob"] if steps else float(self.next_log_probs(tokens[:end])[tokens[end]]))
        return found

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that follow, each the most probable that is no end of text."""
        options = {"n_predict": count, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        return self._post("/completion", {"prompt": list(tokens), **options})["tokens"]

    def tokenize(self, text: str, special: bool = False, around: bool = True) -> list[int]:
        """Tokens of a text. special: names of control tokens become these; around: with a beginning and an end."""
        return self._post("/tokenize", {"content": text, "parse_special": special, "add_special": around})[
            "tokens"
        ]

    def tokens_per_second(self, prompt: Sequence[int], count: int) -> tuple[float, float]:
        """Of the prompt, read anew, and of the `count` tokens behind it."""
        options = {"n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        timings = self._post("/completion", {"prompt": list(prompt), **options})["timings"]
        return timings["prompt_per_second"], timings["predicted_per_second"]

    def next_log_probs(self, tokens: Sequence[int]) -> Tensor:
        """Log-probabilities (V) of what follows the tokens."""
        # Each prefix anew: what is kept of others is wrong where a sliding window has passed over a part of it.
        options = {"n_predict": 1, "n_probs": 2**30, "logit_bias": [[self.drawn, 1e9]], "cache_prompt": False}
        answer = self._post("/completion", {"prompt": list(tokens), **options})
        (step,) = answer["completion_probabilities"]
        found = {one["id"]: one["logprob"] for one in step["top_logprobs"]}
        # The server's sum over a large vocabulary is off by 1e-4.
        return torch.tensor([found[token] for token in range(len(found))]).log_softmax(-1)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def loaded(path: str | Path, context: int = 256, threads: int = 1) -> Iterator[LlamaCpp]:
    """The model of a GGUF file, with keys and values in fp32."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_ram_mib, params.fit_params = 0, False
    server = xllamacpp.Server(params)
    try:
        yield LlamaCpp(server.listening_address)
    finally:
        del server
