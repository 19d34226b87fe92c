"""A server from its settings to its end: in this process, on replicas, or over the ranks that share one model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dkv.cli.console import printable, say_loading
from dkv.params import Options
from dkv.server.admission import Gate, Limits
from dkv.server.app import build
from dkv.server.listen import address_of, listen
from dkv.server.middleware import ANY_ORIGIN
from dkv.server.served_defaults import Defaults, told
from dkv.server.uvicorn_server import KEEP_ALIVE, run

if TYPE_CHECKING:
    from dkv.lm import DiffusionLM

__all__ = ["ServerSetup", "serve_alone", "serve_on_ranks", "serve_on_ray"]


@dataclass(frozen=True)
class ServerSetup:
    """What is to be served, and how. memory: bytes of cache at most, None = no limit; grace: seconds that requests have
    once the server is told to end; ranks: processes that share the model; compile, cuda_graphs: as `load` takes
    them; parse_special: as `build` takes it; keep_alive: seconds of an idle connection; origins: of the pages that may
    use the server; settings: of requests that do not choose their own."""

    model: str
    device: str
    dtype: str
    name: str | None
    host: str
    port: int
    keys: tuple[str, ...]
    limits: Limits
    memory: int | None
    active: int
    waiting: int
    grace: float
    access_log: bool
    ranks: int = 1
    compile: bool = False
    cuda_graphs: bool = False
    quantize: str | None = None
    parse_special: bool = False
    keep_alive: int = KEEP_ALIVE
    origins: tuple[str, ...] = ANY_ORIGIN
    settings: Options = field(default_factory=Options)

    def tell(self, where: str, how: str) -> None:
        """Say on standard error what is served where."""
        access = f"{len(self.keys)} API key{'s' * (len(self.keys) > 1)}" if self.keys else "no API key"
        print(printable(f"serving {where}/v1 ({how}, {access}); Ctrl-C ends it"), file=sys.stderr, flush=True)

    def tell_settings(self, lm: DiffusionLM) -> None:
        """Say on standard error how requests are answered that say nothing else. Raises SettingError."""
        print(printable(told(Defaults.of(lm, self.settings), lm.name)), file=sys.stderr, flush=True)


def serve_alone(job: ServerSetup) -> None:
    """From this process. Raises SettingError, CheckpointError and EngineError."""
    import dkv
    from dkv.loading import bound_memory

    gate = Gate(job.limits)
    with listen(job.host, job.port) as listening:  # a port in use should not cost the loading
        say_loading(job.model, to_log=True)
        bound_memory(job.device, job.dtype)
        lm = dkv.load(
            job.model, device=job.device, dtype=job.dtype, quantize=job.quantize, compile=job.compile,
            cuda_graphs=job.cuda_graphs,
        )  # fmt: skip
        service = dkv.Service(dkv.Engine(lm, memory=job.memory, active=job.active, waiting=job.waiting))
        app = build(
            service, lm, job.limits, job.keys, name=job.name, gate=gate, origins=job.origins,
            parse_special=job.parse_special, settings=job.settings,
        )  # fmt: skip
        kind = str(lm.model.dtype).removeprefix("torch.") + ("" if job.quantize is None else f", {job.quantize}")
        job.tell(f"{lm.name} at {address_of(listening)}", f"{lm.model.device}, {kind}")
        job.tell_settings(lm)
        run(app, listening, gate, job.grace, job.access_log, job.keep_alive)


def serve_on_ranks(job: ServerSetup) -> None:
    """On each of the ranks that share the model: the first one listens, the others follow its engine."""
    import dkv
    from dkv.engine.lockstep import Leader, in_lockstep
    from dkv.loading import bound_memory

    if os.environ["RANK"] == "0":
        say_loading(job.model, to_log=True)
    bound_memory(job.device, job.dtype)
    lm = dkv.load(job.model, device=job.device, dtype=job.dtype, tensor_parallel=job.ranks)
    gate = Gate(job.limits)

    def lead(leader: Leader) -> None:
        with listen(job.host, job.port) as listening:
            service = dkv.Service(leader)
            app = build(
                service, lm, job.limits, job.keys, name=job.name, gate=gate, origins=job.origins,
                parse_special=job.parse_special, settings=job.settings,
            )  # fmt: skip
            kind = str(lm.model.dtype).removeprefix("torch.")
            job.tell(f"{lm.name} at {address_of(listening)}", f"{job.ranks} ranks, {lm.model.device}, {kind}")
            job.tell_settings(lm)
            run(app, listening, gate, job.grace, job.access_log, job.keep_alive)

    in_lockstep(dkv.Engine(lm, memory=job.memory, active=job.active, waiting=job.waiting), lead)


def serve_on_ray(job: ServerSetup, replicas: int | None) -> None:
    """From replicas on Ray; None = as many as there are GPUs, else 2. Raises SettingError without the extra."""
    from dkv.server.ray_serve import ReplicaSetup, deployed

    gate = Gate(job.limits)
    part = ReplicaSetup(
        job.model, job.device, job.dtype, job.memory, job.active, job.waiting, job.limits, job.name, job.quantize,
        job.parse_special,
        job.settings,
    )  # fmt: skip
    with listen(job.host, job.port) as listening, deployed(part, replicas, job.keys, gate, job.origins) as relay:
        job.tell(f"{job.model} at {address_of(listening)}", "on Ray")
        run(relay, listening, gate, job.grace, job.access_log, job.keep_alive)
