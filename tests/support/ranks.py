"""What the ranks of the tests do: functions that `launch` can call in other processes, and the runs that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import dkv
from dkv.distributed.group import join
from dkv.distributed.shard import Cut
from dkv.errors import SettingError
from dkv.layers.cpu_linear import plain
from dkv.layers.parts import SwiGLU
from dkv.layers.rotary import paired
from dkv.models import Transformer, dream, llada

__all__ = ["CASES", "PROMPTS", "errors_of", "fail", "generated", "held", "leave", "survey", "unsendable", "whoami"]

PROMPTS = [[5, 80, 33, 7], [9, 1, 44, 120, 66, 2, 13]]

CASES: dict[str, dict[str, Any]] = {
    "none": {"cache": "none"},
    "dkv-decode": {"cache": "dkv-decode:refresh=4"},
    "dkv-greedy": {"cache": "dkv-greedy:refresh=3,window=2", "block_length": 6},
    "dllm-cache, cosine": {"cache": "dllm-cache:kp=5,kr=3,rho=0.4"},
    "dllm-cache, l2": {"cache": "dllm-cache:kp=3,kr=100,rho=0.3,first_layer=false,similarity=l2"},
    "guided": {"cache": "dllm-cache:kp=5,kr=3,rho=0.4,cfg_interval=3", "cfg_scale": 1.5},
    "sampled": {"cache": "dkv-decode:refresh=4", "temperature": 0.8, "top_p": 0.9, "seed": 7},
}


def generated(lm: dkv.DiffusionLM) -> dict[str, list[list[int]]]:
    """The response ids of every case."""
    prompts = PROMPTS if lm.tokenizer is None else ["Tell me: 3 + 4?", "A list, please."]
    return {
        name: [g.token_ids for g in lm.generate(prompts, gen_length=12, stop_at_eos=False, **case)]
        for name, case in CASES.items()
    }


def held(lm: dkv.DiffusionLM) -> tuple[int, int]:
    """Bytes of the weights that are cut, and of the memory of two sequences."""
    model = lm.model
    assert isinstance(model, Transformer)
    names = (dream if model.config.family == "dream" else llada).weight_map(model.config)
    parts = [part for block in model.blocks for part in (block.attention, block.feed_forward)]
    fields = [part.parameters(model.config) for part in (names.attention, names.feed_forward)] * len(model.blocks)
    tensors = [model.embedding, model.head_weight]
    for part, parameters in zip(parts, fields, strict=True):
        tensors += [getattr(part, name) for name, parameter in parameters.items() if parameter.cut is not None]
    return sum(t.numel() * t.element_size() for t in map(plain, tensors)), model.new_kv_cache(2, 20).nbytes


def survey(directories: dict[str, str]) -> dict[str, Any]:
    """All that the tests ask of two ranks, in one go: [ranks] entries where ranks may differ."""
    found: dict[str, Any] = {"tokens": {}, "held": {}, "drawn": [], "placed": None, "errors": {}}
    for name, directory in directories.items():
        lm = dkv.load(directory, device="cpu", dtype="float32", audit=True, tensor_parallel=2)
        found["tokens"][name] = everywhere(generated(lm))
        found["held"][name] = everywhere(held(lm))
        if name == "dream":
            run = lm.generate(PROMPTS[0], gen_length=8, temperature=1.0)[0]
            found["drawn"] = everywhere((run.seed, run.token_ids))
            found["placed"] = everywhere(as_dtensor_would(lm, Path(directory)))
    found["errors"] = errors_of(directories["dream"])
    return found


def everywhere(value: Any) -> list[Any]:
    """Every rank's value."""
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def as_dtensor_would(lm: dkv.DiffusionLM, directory: Path) -> list[bool]:
    """Whether this rank's share of some tensors, one of them uneven, is what DTensor's `Shard` gives it."""
    from safetensors.torch import load_file
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh, whole, model = init_device_mesh("cpu", (2,)), load_file(directory / "model.safetensors"), lm.model
    assert isinstance(model, Transformer)
    assert model.team is not None
    block, layer = model.blocks[1], "model.layers.1."
    assert isinstance(block.feed_forward, SwiGLU)

    def theirs(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return distribute_tensor(tensor, mesh, [Shard(dim)]).to_local()

    queries = theirs(whole[layer + "self_attn.q_proj.weight"], 0)
    keys = theirs(whole[layer + "self_attn.k_proj.weight"], 0)
    odd = torch.arange(15.0).view(5, 3)
    return [
        torch.equal(model.embedding, theirs(whole["model.embed_tokens.weight"], 0)),
        torch.equal(plain(block.attention.qk_weight), paired(torch.cat((queries, keys)), model.config.head_dim)),
        torch.equal(plain(block.feed_forward.down_weight), theirs(whole[layer + "mlp.down_proj.weight"], 1)),
        torch.equal(Cut(0, model.team.rank, 2).of(odd), theirs(odd, 0)),
        torch.equal(Cut(1, model.team.rank, 2).of(odd), theirs(odd, 1)),
    ]


def errors_of(directory: str) -> dict[str, str]:
    """The lines of what cannot be loaded over two ranks."""

    def line(call: Callable[[], object]) -> str:
        try:
            call()
        except SettingError as error:
            return str(error)
        return "no error"

    return {
        "three": line(lambda: dkv.load(directory, tensor_parallel=3)),
        "save": line(lambda: dkv.load(directory, device="cpu", tensor_parallel=2).save("nowhere")),
        "one device": line(lambda: dkv.load(directory, device="cuda:0", tensor_parallel=2)),
    }


def whoami(word: str) -> tuple[str, str, str, list[int]]:
    """What a rank knows of itself, and a sum over ranks."""
    total = torch.tensor([1, int(os.environ["RANK"])])
    dist.all_reduce(total)
    print("noise of rank", os.environ["RANK"])
    return word, os.environ["RANK"], os.environ["WORLD_SIZE"], total.tolist()


def fail(everywhere: bool) -> None:
    """Raise on every rank, or on the second one while the first waits for it."""
    if everywhere:
        raise SettingError("gen_length=0 is nonsense")
    if os.environ["RANK"] == "1":
        raise OSError(28, "No space left on device", "a/file")
    join(2).share(None)


def leave(how: int) -> None:
    """The second rank dies while the first waits for it."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), how) if how else os._exit(3)
    join(2).sum(torch.ones(1))


def unsendable() -> object:
    """A result that cannot be pickled."""
    return lambda: None
