"""The passes between products in C, built on the machine that runs them: a third to a half of the time that torch's
operations take, each of which reads and writes all rows, and of which few rows need as many as many do.

The source (`rowwise_ops.c`, with `layer_parts.c`) is compiled when asked for, in less than a second, by the system's C
compiler. Nothing built is kept on disk, so that nobody else's can be loaded."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from dkv.accel.compile_report import CompileReport
from dkv.core.drift import ROUNDING, Lengths, whole_lengths
from dkv.core.layer_rules import RotaryPhase
from dkv.core.packing import CellStrides, PackedRows
from dkv.layers.ops import Passes

__all__ = ["BuildError", "Native", "build", "function", "native", "one_runtime"]

_SOURCE = Path(__file__).with_name("fused_layers.c")
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
_LETTERS = {torch.float32: "f", torch.bfloat16: "b"}
_POINTER, _COUNT, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES = {
    "norm": (_POINTER, _POINTER, _POINTER, _COUNT, _COUNT, _FLOAT, _INT),
    "turn": (*(_POINTER,) * 4, *(_COUNT,) * 5, _INT),
    "renew": (*(_POINTER,) * 5, *(_COUNT,) * 4, _INT, _FLOAT, _INT),
    "onto": (*(_POINTER,) * 10, _COUNT, _COUNT, _FLOAT, _INT),
    "argmax_with_logprob": (*(_POINTER,) * 3, *(_COUNT,) * 3, _INT),
}
_WRITE = (*(_POINTER,) * 3, *(_COUNT,) * 5, _INT)
_PICK = (*(_POINTER,) * 8, *(_COUNT,) * 4)


class BuildError(RuntimeError):
    """Nothing on this machine builds the source."""


class Native(Passes):
    """The passes of `library`, for contiguous float32 and bfloat16 rows on the CPU; torch's for all others. A row's
    result does not depend on its company. warmth: what building took, or why there is no library (None)."""

    def __init__(self, library: ctypes.CDLL | None, warmth: CompileReport) -> None:
        self.library, self.warmth, self._shared = library, warmth, one_runtime()
        self._made = dict[tuple[str, torch.dtype], Callable[..., None]]()
        self._write: Callable[..., None] | None = None
        self._pick: Callable[..., None] | None = None
        if library is not None:
            self._write = function(library, "write_rows", _WRITE)
            self._pick = function(library, "pick_rows", _PICK)
            for name, signature in _SIGNATURES.items():
                for dtype, letter in _LETTERS.items():
                    self._made[name, dtype] = function(library, f"{name}_{letter}", signature)

    @property
    def threads(self) -> int:
        """That a call may use."""
        return torch.get_num_threads() if self._shared else 1

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMS norm of x [N, C]."""
        run = self._of("norm", x, weight)
        if run is None:
            return super().norm(x, weight, eps)
        out = torch.empty_like(x)
        run(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape, eps, self.threads)
        return out

    def turn(self, x: Tensor, turn: RotaryPhase) -> Tensor:
        """x [N, heads, D] rotated in place."""
        run = self._of("turn", x, x)
        if run is None or not turn.phase.is_contiguous():
            return super().turn(x, turn)
        rows, heads, size = x.shape
        run(x.data_ptr(), turn.phase.data_ptr(), None, None, rows, heads, 0, 0, size, self.threads)
        return x

    def write(self, cells: Tensor, at: PackedRows, apart: CellStrides, rows: Tensor) -> None:
        """Put rows [N, heads, D] of the carried rows into their cells [M, D]."""
        count, heads, size = rows.shape
        if self._write is None or rows.stride()[1:] != (size, 1) or cells.device.type != "cpu":
            super().write(cells, at, apart, rows)
            return
        width, starts = rows.element_size(), at.starts(apart)
        self._write(cells.data_ptr(), starts.data_ptr(), rows.data_ptr(), count, heads, apart.head, size * width,
                    rows.stride(0) * width, self.threads)  # fmt: skip

    def renew(
        self,
        cells: Tensor,
        at: PackedRows,
        apart: CellStrides,
        rows: Tensor,
        similarity: str,
        frozen: Tensor | None,
        lengths: Lengths = whole_lengths,
    ) -> Tensor:
        """Put rows [N, heads, D] into their cells, but the frozen ones, and say how far each moved, [N] float32."""
        run = self._of("renew", cells, rows) if lengths is whole_lengths else None
        if run is None:
            return super().renew(cells, at, apart, rows, similarity, frozen, lengths)
        out = torch.empty(len(rows))
        run(cells.data_ptr(), at.starts(apart).data_ptr(), rows.data_ptr(), 0 if frozen is None else frozen.data_ptr(),
            out.data_ptr(), *rows.shape[:2], apart.head, rows.shape[2], similarity == "cosine", ROUNDING,
            self.threads)  # fmt: skip
        return out

    def add_kept(self, cells: Tensor, numbers: Tensor, x: Tensor) -> Tensor:
        """x [N, D] plus what cells numbers [N] hold."""
        run = self._of("onto", x, cells)
        if run is None:
            return super().add_kept(cells, numbers, x)
        out, nothing = torch.empty_like(x), (None,) * 4
        run(cells.data_ptr(), numbers.data_ptr(), x.data_ptr(), *nothing, out.data_ptr(), None, None, *x.shape, 0.0,
            self.threads)  # fmt: skip
        return out

    def pick(self, at: PackedRows, score: Tensor) -> PackedRows:
        """The rows of the highest score [N], in their order."""
        narrow = at.required_selection
        if self._pick is None or score.dtype != torch.float32 or not _plain(score):
            return super().pick(at, score)
        size, (batch, most) = len(narrow.base), narrow.source.shape
        index, slot, flat = torch.empty(3, size, dtype=torch.int64).unbind()
        each = (score, narrow.source, narrow.bias, narrow.picks, at.slot, index, slot, flat)
        self._pick(*(x.data_ptr() for x in each), size, batch, most, at.width)
        return narrow.picked(at, index, slot, flat)

    def argmax_with_logprob(self, logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
        """As `dkv.core.sampling.argmax_with_logprob`."""
        run = self._of("argmax_with_logprob", logits)
        if run is None:
            return super().argmax_with_logprob(logits, mask_id)
        token, confidence = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
        run(logits.data_ptr(), token.data_ptr(), confidence.data_ptr(), *logits.shape, mask_id, self.threads)
        return token, confidence

    def _of(self, name: str, *given: Tensor) -> Callable[..., None] | None:
        """The function for these tensors, if there is one."""
        dtype = given[0].dtype
        return self._made.get((name, dtype)) if _plain(*given) and all(x.dtype == dtype for x in given) else None


def _plain(*given: Tensor) -> bool:
    """Whether the source can read them all: on the CPU, without gaps."""
    return all(x.device.type == "cpu" and x.is_contiguous() for x in given)


def native() -> Native:
    """The passes built, or torch's, and why."""
    began = time.perf_counter()
    try:
        library = build()
    except BuildError as error:
        return Native(None, CompileReport(note=f"what lies between products stays torch's: {error}"))
    seconds = time.perf_counter() - began
    return Native(
        library, CompileReport(seconds=seconds, note=f"what lies between products was built in {seconds:.1f} s")
    )


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


def function(library: ctypes.CDLL, name: str, signature: tuple[Any, ...], result: Any = None) -> Callable[..., Any]:
    """A function of a built library, by the types of what it takes and of its result."""
    made = library[name]
    made.argtypes, made.restype = signature, result
    return made
