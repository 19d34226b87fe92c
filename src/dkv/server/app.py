"""The application: a service and a model behind OpenAI's routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from dkv.core.values import checked_keywords
from dkv.params import Options
from dkv.server.admission import Admission, Gate, Limits
from dkv.server.api_errors import handle_errors
from dkv.server.completions import completions
from dkv.server.health import probes
from dkv.server.metrics import Meters
from dkv.server.middleware import ANY_ORIGIN, Auth, CatchAll, Paths, RequestMetrics, allow_origins
from dkv.server.model_list import models
from dkv.server.playground import playground
from dkv.server.requests import ModelService, served_name
from dkv.server.served_defaults import Defaults
from dkv.version import VERSION

if TYPE_CHECKING:
    from dkv.engine import Service
    from dkv.lm import DiffusionLM

__all__ = ["build"]


@checked_keywords
def build(
    service: Service,
    lm: DiffusionLM,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    *,
    name: str | None = None,
    gate: Gate | None = None,
    parse_special: bool = False,
    origins: Sequence[str] = ANY_ORIGIN,
    settings: Options | None = None,
) -> FastAPI:
    """An ASGI application that serves `lm` through `service`, which it starts and stops with its lifespan.

    keys: API keys, none = open to all; name: what clients call the model, None = as it was loaded (a directory by its
    last part); gate: give one to close it for a shutdown; parse_special: whether control tokens in a completion's text
    prompt count as such where a request does not say it; settings: of requests that say nothing else, before what
    `dkv tune` found and the built-in ones. Raises SettingError for a model without a tokenizer, and for settings that
    no request could have.
    """
    limits = limits or Limits()
    gate = gate or Gate(limits)
    shown = served_name(lm.name) if name is None else name
    backend = ModelService(lm, limits, shown, parse_special, service=service, defaults=Defaults.of(lm, settings))
    meters = Meters(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    # Without the documentation pages: they load scripts from elsewhere.
    app = FastAPI(
        title="dkv",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,  # a body without a content-type is read as JSON
    )
    page = playground(
        service,
        lm,
        name=backend.name,
        max_prompt=limits.max_prompt,
        max_tokens=limits.max_tokens,
        defaults=backend.defaults,
    )
    for router in (models(backend), completions(backend), probes(backend, gate), meters.router, page):
        app.include_router(router)
    handle_errors(app)
    # The last one added is the first that a request meets.
    app.add_middleware(Admission, gate=gate, limits=limits)
    app.add_middleware(Auth, keys=keys)
    app.add_middleware(CatchAll)
    allow_origins(app, origins)
    app.add_middleware(RequestMetrics, meters=meters, routes=list(app.openapi()["paths"]))
    app.add_middleware(Paths)
    return app
