"""The server on Ray Serve (extra `ray`): replicas of the same application, and before them a relay that tries again.

Each replica is a process with the model, its engine and the whole application. The relay runs where `dkv serve` does,
with the way in (keys, limits, shutdown) that the application has by itself, and passes requests on. If a replica dies,
what it had not begun to answer goes to another; a stream that had begun ends with an error event. Nothing hangs.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from dkv.distributed.ray_cluster import TRIES, cluster, one_line, share_of, workers_for
from dkv.engine import Engine, Service, Status
from dkv.errors import EngineError
from dkv.loading import bound_memory, find_device, load
from dkv.params import Options
from dkv.server.admission import Admission, Gate, Limits
from dkv.server.api_errors import ApiError, handle_errors
from dkv.server.app import build
from dkv.server.metrics import Meters
from dkv.server.middleware import ANY_ORIGIN, Auth, CatchAll, Paths, RequestMetrics, allow_origins
from dkv.server.sse import event
from dkv.storage.extras import module_of
from dkv.version import VERSION

__all__ = ["ReplicaSetup", "Replicas", "deployed", "relayed"]

_SCOPE = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
_SECONDS_A_GET = 10.0
_SECONDS_A_LOOK = 2.0
_PAUSE = 0.25
_NOW = ("active", "waiting", "memory_used", "memory_limit")
"""Of a Status: what a dead replica has no more. The rest are counts, which must not fall when one dies."""


@dataclass(frozen=True)
class ReplicaSetup:
    """What a replica is made of: arguments of `load`, `Engine` and `build`."""

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    memory: int | None = None
    active: int = 32
    waiting: int = 256
    limits: Limits = field(default_factory=Limits)
    name: str | None = None
    quantize: str | None = None
    parse_special: bool = False
    settings: Options = field(default_factory=Options)


class _Replica:
    """What Ray Serve runs: the application, in a process of its own."""

    def __init__(self, part: ReplicaSetup) -> None:
        bound_memory(part.device, part.dtype)
        lm = load(part.model, device=part.device, dtype=part.dtype, quantize=part.quantize)
        self._service = Service(Engine(lm, memory=part.memory, active=part.active, waiting=part.waiting))
        limits = replace(part.limits, max_per_key=None)  # the relay knows the keys
        # the relay answers for origins
        self._app = build(
            self._service, lm, limits, name=part.name, origins=(), parse_special=part.parse_special,
            settings=part.settings,
        )  # fmt: skip
        self._id, self._alive = uuid.uuid4().hex, AsyncExitStack()
        self._starting: asyncio.Future[None] | None = None

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """The application's messages for a request. Closing the iterator is the client's leaving."""
        await self._start()
        messages: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=1)

        async def receive() -> Message:
            if sent:
                await asyncio.Event().wait()
            sent.append(True)
            return {"type": "http.request", "body": body, "more_body": False}

        async def work() -> None:
            try:
                await self._app(scope, receive, messages.put)
            finally:
                await messages.put(None)

        sent = list[bool]()
        working = asyncio.ensure_future(work())
        try:
            while (message := await messages.get()) is not None:
                yield message
        finally:
            working.cancel()

    async def status(self) -> tuple[str, Status]:
        """Who this is, and how its engine stands."""
        return self._id, self._service.status()

    async def routes(self) -> list[str]:
        """The paths that the application knows."""
        return list(self._app.openapi()["paths"])

    def check_health(self) -> None:
        """Called by Ray Serve now and then; raising has the replica replaced."""
        if self._service.failed is not None:
            raise self._service.failed

    async def _start(self) -> None:
        """Start the service, once, on the event loop that answers."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._enter())
        await asyncio.shield(self._starting)

    async def _enter(self) -> None:
        await self._alive.enter_async_context(self._app.router.lifespan_context(self._app))


class Replicas:
    """The replicas as the relay sees them: `status` sums their engines' up, as `Service.status` gives one's. handle: of
    the deployment."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self._known: dict[str, Status] = {}
        self._alive: frozenset[str] = frozenset()

    @property
    def alive(self) -> int:
        """How many answered when they were last asked."""
        return len(self._alive)

    async def look(self) -> None:
        """Ask all of them."""
        asked = self.handle.broadcast("status")
        found: list[Any] = []
        with suppress(TimeoutError, *_failures()):
            found = await asked.results_async(timeout_s=_SECONDS_A_LOOK, return_exceptions=True)
        statuses = dict(one for one in found if not isinstance(one, BaseException))
        self._known |= statuses
        self._alive = frozenset(statuses)

    async def keep_looking(self) -> None:
        """Ask now and then, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_SECONDS_A_LOOK)

    def status(self) -> Status:
        """Of all together; counts of the dead included."""

        def total(name: str) -> Any:
            whose = self._alive if name in _NOW else self._known
            values = [getattr(self._known[one], name) for one in whose]
            return None if None in values else sum(values)

        return Status(**{part.name: total(part.name) for part in fields(Status)})


class _Relay:
    """ASGI: passes requests to a replica, and to another one if that dies before it has begun to answer."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle.answer.options(stream=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises ApiError: 503."""
        if scope["type"] != "http":
            return
        body = b"" if scope["method"] in ("GET", "HEAD") else await _read(receive)
        try:
            # POSTs have their time from the gate.
            async with asyncio.timeout(None if scope["method"] == "POST" else _SECONDS_A_GET):
                for number in range(TRIES + 1):
                    if await self._tried(_plain(scope), body, send):
                        return
                    await asyncio.sleep(_PAUSE * 2**number)  # or the next try may meet the same dead replica
        except TimeoutError:
            raise ApiError(503, "no replica is up", code="no_replica", retry=1) from None
        raise ApiError(
            503, "replicas died again and again with this request; ask again later", code="replica_died", retry=1
        )

    async def _tried(self, scope: dict[str, Any], body: bytes, send: Send) -> bool:
        """Whether a replica answered; if not, nothing has been sent."""
        messages, held, begun = self._handle.remote(scope, body), list[Message](), False
        try:
            async for message in messages:
                held.append(message)
                if message["type"] == "http.response.start":
                    continue  # with the first of the body: until then, another replica may still begin
                begun = True
                for one in held:
                    await send(one)
                held.clear()
        except _failures():
            if begun:  # so it is a stream: other answers are sent in one piece
                error = ApiError(503, "the replica that was answering died; ask again", code="replica_died")
                await send({"type": "http.response.body", "body": event(error.body), "more_body": False})
            return begun
        finally:
            messages.cancel()
        return True


async def _read(receive: Receive) -> bytes:
    """The body, whose size the way in has checked."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _plain(scope: Scope) -> dict[str, Any]:
    """What of a request's scope a replica is to see: all but who asks."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    return {**{name: scope[name] for name in _SCOPE if name in scope}, "headers": headers}


def _failures() -> tuple[type[Exception], ...]:
    """What Ray raises where a replica is gone, or none is there."""
    serve = module_of("ray", "ray.serve.exceptions")
    return module_of("ray", "ray.exceptions").RayError, serve.RayServeException


def _reason(serve: Any, name: str) -> str | None:
    """The error that an application's replicas ended with, as Ray Serve reports it."""
    found = serve.status().applications.get(name)
    text = "\n".join(part.message for part in found.deployments.values()) if found is not None else ""
    errors = [line.strip() for line in text.splitlines() if re.match(r"\s*[\w.]*Error: ", line)]
    return errors[-1] if errors else None


def relayed(
    replicas: Replicas,
    limits: Limits,
    keys: Sequence[str],
    gate: Gate,
    routes: Sequence[str] = (),
    origins: Sequence[str] = ANY_ORIGIN,
) -> FastAPI:
    """An ASGI application that lets requests in as `build`'s does and has replicas answer them. routes: paths that its
    metrics tell apart; origins: as `build` takes them."""
    meters = Meters(replicas)  # type: ignore[arg-type]  # all that they read is `status`

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await replicas.look()
        looking = asyncio.ensure_future(replicas.keep_looking())
        yield
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking

    app = FastAPI(title="dkv", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
                  openapi_url=None, redirect_slashes=False)  # fmt: skip

    @app.get("/health")
    async def health() -> Mapping[str, Any]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> Mapping[str, Any]:
        if gate.closed:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if not replicas.alive:
            raise ApiError(503, "no replica is up", code="no_replica", retry=1)
        return {"status": "ready", "replicas": replicas.alive}

    app.include_router(meters.router)
    app.mount("/", _Relay(replicas.handle))
    handle_errors(app)
    app.add_middleware(Admission, gate=gate, limits=limits)
    app.add_middleware(Auth, keys=keys)
    app.add_middleware(CatchAll)
    allow_origins(app, origins)
    app.add_middleware(RequestMetrics, meters=meters, routes=["/health", "/ready", "/metrics", *routes])
    app.add_middleware(Paths)
    return app


@contextmanager
def deployed(
    part: ReplicaSetup, replicas: int | None, keys: Sequence[str], gate: Gate, origins: Sequence[str] = ANY_ORIGIN
) -> Iterator[FastAPI]:
    """Deploy replicas (None = one for each GPU, without any two); the application to serve while they are there.

    Raises SettingError where Ray, or the GPUs, are missing, and EngineError where the replicas do not start.
    """
    device = find_device(part.device).type
    with cluster():
        serve = module_of("ray", "ray.serve")
        count = workers_for("replicas", replicas, device)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what it has just set for this process
        name = f"dkv-{uuid.uuid4().hex[:8]}"
        kind = serve.deployment(_Replica).options(
            num_replicas=count,
            ray_actor_options=share_of(count, device),
            max_ongoing_requests=part.active + part.waiting,
            health_check_period_s=2,
            graceful_shutdown_timeout_s=1,  # the gate has waited for them
        )
        try:
            handle = serve.run(kind.bind(replace(part, device=device)), name=name, route_prefix=None)
            routes = handle.routes.remote().result()
        except Exception as error:
            raise EngineError(f"ray: the replicas did not start ({_reason(serve, name) or one_line(error)})") from None
        try:
            yield relayed(Replicas(handle), part.limits, keys, gate, routes, origins)
        finally:
            serve.delete(name)
