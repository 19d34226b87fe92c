"""The most likely tokens and their log-probabilities in C, built on the machine that runs it: one pass over each row of
logits after another finds it in the cache, in float32 whatever the dtype.

The source (`argmax_logprob.c`) is compiled when asked for, in less than a second, by the system's C compiler. Nothing
built is kept on disk, so that nobody else's can be loaded."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from dkv.accel.compile_report import CompileReport
from dkv.accel.cpu_ops import RowChunks
from dkv.core.sampling import LogitOps

__all__ = ["BuildError", "NativeLogitOps", "build", "native_logit_ops", "one_runtime"]

_SOURCE = Path(__file__).with_name("argmax_logprob.c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native", "-fopenmp-simd"),
    ("-mcpu=native", "-fopenmp-simd"),
    ("-fopenmp-simd",),
    (),
)
"""For this processor, with torch's own threads; then what other compilers and systems know."""
_OPENMP = re.compile(r"/lib[gi]?omp[^/]*\.so[^/]*$")
_SECONDS = 60
_FUNCTIONS = {torch.float32: "argmax_with_logprob_f", torch.bfloat16: "argmax_with_logprob_b"}
_ARGUMENTS = (*(ctypes.c_void_p,) * 3, *(ctypes.c_int64,) * 3, ctypes.c_int)


class BuildError(RuntimeError):
    """Nothing on this machine builds the source."""


class NativeLogitOps(RowChunks):
    """In C for contiguous float32 and bfloat16 logits on the CPU; torch's for all others."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._shared = one_runtime()
        self._made = {dtype: library[name] for dtype, name in _FUNCTIONS.items()}
        for made in self._made.values():
            made.argtypes, made.restype = _ARGUMENTS, None

    def argmax_with_logprob(self, logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
        """The most likely token [M] of each row of logits [M, V] but for the mask token, and its log-probability."""
        if logits.device.type != "cpu" or logits.dtype not in self._made or not logits.is_contiguous():
            return super().argmax_with_logprob(logits, mask_id)
        token, logprob = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
        threads = torch.get_num_threads() if self._shared else 1
        pointers = (x.data_ptr() for x in (logits, token, logprob))
        self._made[logits.dtype](*pointers, *logits.shape, mask_id, threads)
        return token, logprob


def native_logit_ops(report: CompileReport) -> LogitOps:
    """Operations in C; or torch's, and the report says why."""
    began = time.perf_counter()
    try:
        made = NativeLogitOps(build())
    except BuildError as error:
        report.note = f"the choice of tokens stays torch's: {error}"
        return RowChunks()
    report.seconds = time.perf_counter() - began
    report.note = f"the choice of tokens was built in {report.seconds:.1f} s"
    return made


def build(source: Path = _SOURCE) -> ctypes.CDLL:
    """Compile the source by the compiler that `CC` names, or the system's. Raises BuildError."""
    found = _compiler()
    with TemporaryDirectory(prefix="dkv-", ignore_cleanup_errors=True) as directory:
        library, said = Path(directory) / "native.so", ""
        for flags in _FLAGS:
            said = _compile([*found, "-O3", *flags, "-shared", "-fPIC", "-o", str(library), str(source), "-lm"])
            if not said:
                return _loaded(library, found[0])
        raise BuildError(f"{found[0]} does not build {source.name}: {said}")


def _compiler() -> list[str]:
    named = os.environ.get("CC", "")
    try:
        found = shlex.split(named) or [path for name in _COMPILERS if (path := shutil.which(name))][:1]
    except ValueError as error:
        raise BuildError(f"CC={named!r} is no command: {error}") from None
    if not found:
        raise BuildError(f"no C compiler ({', '.join(_COMPILERS)}) on this machine, and CC names none")
    return found


def _loaded(library: Path, compiler: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(f"what {compiler} made cannot be loaded: {error}") from None


def _compile(command: list[str]) -> str:
    """Run a compiler; nothing, or one line of what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines[0] if lines else f"exit status {done.returncode}") if done.returncode else ""


def one_runtime() -> bool:
    """Whether torch and the library run their threads by the same OpenMP. Two of them would wait for each other's idle
    threads, which spin; then one thread does it all, as on systems that do not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return len({path for line in lines if _OPENMP.search(path := line.rpartition(" ")[2])}) == 1
