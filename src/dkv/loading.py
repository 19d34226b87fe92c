"""Models by name: `load`, and what its arguments mean."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

import torch

from dkv.accel.backend import choose_backend
from dkv.accel.malloc import bound_kernels, give_back
from dkv.checkpoints.config_fields import read_json
from dkv.checkpoints.hub import find_directory, is_hub_id
from dkv.core.dtypes import named_dtype
from dkv.core.model import shielded
from dkv.core.values import as_count, checked_keywords
from dkv.distributed.group import join, rank_device
from dkv.errors import SettingError
from dkv.layers.quantized import check_extra, check_kind
from dkv.lm import DiffusionLM
from dkv.models import Transformer, architecture_of, load_model
from dkv.params import drawn_seed
from dkv.tokenizer import load_tokenizer

__all__ = [
    "arranged",
    "bound_memory",
    "check_model",
    "compiled_as",
    "find_device",
    "find_dtype",
    "find_model",
    "load",
    "loaded_as",
    "release_memory",
]


@checked_keywords
@shielded()
def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    audit: bool = False,
    tensor_parallel: int = 1,
    compile: bool = False,  # noqa: A002 - what torch calls it
    cuda_graphs: bool = False,
    quantize: str | None = None,
) -> DiffusionLM:
    """Load "tiny" (the embedded model), a directory with a published checkpoint (~ is one's home), or a hub id like
    "GSAI-ML/LLaDA-8B-Instruct" (@revision may follow), which is fetched once and then used from the cache.

    device: "auto" (a GPU where there is one), "cpu", "cuda", ...; dtype: "auto" (bfloat16 where the processor has it,
    else float32), "float32", "bfloat16", ...; audit: check at every step that attention reads only slots that were
    computed (slow; for tests of policies); tensor_parallel: over how many processes the model is split, of which this
    is one: each of them makes the same calls (docs/parallel.md); compile: build faster code for this machine: on a CPU
    the choice of tokens in C, now, with its compiler (and the whole process keeps the memory that it frees, for good,
    where that is glibc's: docs/speed.md); elsewhere layers by torch.compile, as they are first needed; cuda_graphs:
    record forwards and replay them, on a GPU (docs/speed.md); what that took stands in `lm.compile_report`; quantize:
    "int8" or "int4" to keep the weights of the layers in 8 or 4 bits, each packed once it is read (docs/quantize.md).
    A checkpoint without a tokenizer takes token ids only.

    Raises CheckpointError, HubError, UnsupportedModelError, and SettingError for the device, the dtype,
    tensor_parallel, cuda_graphs or quantize, and RankError where another process is gone.
    """
    tensor_parallel = as_count("tensor_parallel", tensor_parallel)
    for name, value in (("compile", compile), ("cuda_graphs", cuda_graphs)):
        if value and tensor_parallel > 1:
            raise SettingError(f"{name}=True does not go with tensor_parallel={tensor_parallel}; leave one of them out")
    check_kind(quantize, tensor_parallel)
    team, draw = None, drawn_seed
    if tensor_parallel > 1:
        device, team = rank_device(device, tensor_parallel), join(tensor_parallel)
        draw = partial(Random(team.share(drawn_seed())).getrandbits, 32)  # noqa: S311 - the same seeds on every rank
    place = find_device(device)
    if cuda_graphs and place.type != "cuda":
        raise SettingError(f"cuda_graphs=True needs device='cuda', not {str(place)!r}; leave cuda_graphs out")
    kind = find_dtype(dtype, place)
    check_extra(quantize, place, kind)
    directory = find_model(model) if team is None else team.after_first(partial(find_model, model))
    network = load_model(directory, place, kind, team, quantize, arrange=arranged(place, compile))
    backend = choose_backend(network, place, compile=compile, cuda_graphs=cuda_graphs)
    return DiffusionLM(backend.model, load_tokenizer(directory), str(model), audit, directory, draw, backend)


def arranged(place: torch.device, compile: bool) -> bool:  # noqa: A002 - as `load` has it
    """Whether weights are laid out as the kernels multiply them: torch.compile, off the CPU, knows the usual layout."""
    return place.type == "cpu" or not compile


def loaded_as(
    network: Transformer,
    place: torch.device,
    name: str,
    *,
    compile: bool = False,  # noqa: A002 - as `load` has it
) -> DiffusionLM:
    """A network without a checkpoint, run as `load` would run it; it takes token ids only."""
    backend = choose_backend(network, place, compile=compile)
    return DiffusionLM(backend.model, None, name, backend=backend)


def check_model(model: str) -> None:
    """Refuse what `load` would refuse as `model`, as far as that is known without its weights and without the hub.
    Raises CheckpointError and UnsupportedModelError."""
    if not is_hub_id(model):
        architecture_of(read_json(find_model(model) / "config.json"))


def find_model(model: str | Path) -> Path:
    """The directory of what `load` takes as `model`, fetched if need be. Raises CheckpointError and HubError."""
    if not str(model).startswith("tiny"):
        return find_directory(model)
    from dkv.tiny import MODELS  # the other models need not import it

    return MODELS.get(str(model)) or find_directory(model)


def find_device(device: str) -> torch.device:
    """The device that `load` takes "auto" or a name for. Raises SettingError where it is unknown or not on this
    machine."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # the only sure test that it computes
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingError(f"device={device!r} is not available here; use 'auto' or 'cpu'") from None
    return place


def bound_memory(device: str, dtype: str) -> None:
    """Have this process keep fewer kernels, where each number of rows has kernels of its own: in float32 on a CPU. For
    servers, which meet all numbers of rows; elsewhere to build kernels again would cost more than it saves. Call it
    before `load`, with its arguments. Raises SettingError."""
    place = find_device(device)
    if place.type == "cpu" and find_dtype(dtype, place) == torch.float32:
        bound_kernels()


def release_memory() -> None:
    """Give free memory of this process back to the system, where the C library can."""
    give_back()


def compiled_as(compiled: bool) -> dict[str, bool]:
    """What files of answers note of `compile`: nothing where nothing is compiled, so that those from before that could
    be asked for go on."""
    return {"compile": True} if compiled else {}


def find_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype that `load` takes "auto" or a name for, on a device. Raises SettingError."""
    if dtype != "auto":
        return named_dtype("dtype", dtype, ("auto",))
    return torch.bfloat16 if device.type != "cpu" or _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it would be emulated, slower than float32."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
