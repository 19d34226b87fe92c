"""GET /v1/models and /v1/models/{id}: the one model that is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from dkv.server.api_errors import ApiError
from dkv.server.requests import ModelService

__all__ = ["models"]


def models(backend: ModelService) -> APIRouter:
    """The routes, for a backend."""
    router, card = APIRouter(), _card(backend)

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The models: one."""
        return {"object": "list", "data": [card]}

    @router.get("/v1/models/{model:path}")
    async def retrieve_model(model: str) -> dict[str, Any]:
        """The model of that id, which may hold slashes as hub ids do."""
        if model != backend.name:
            message = f"there is no model {model!r} here; this server has {backend.name!r}"
            raise ApiError(404, message, "model", "model_not_found")
        return card

    return router


def _card(backend: ModelService) -> dict[str, Any]:
    """What OpenAI tells of a model, and under `dkv` what there is to choose from."""
    from dkv.caches import known_caches
    from dkv.decoders import known_decoders

    filled = backend.defaults.fill({})
    details = {
        "context": backend.lm.model.config.context,
        "max_prompt": backend.limits.max_prompt,
        "max_tokens": backend.limits.max_tokens,
        "default_tokens": backend.limits.tokens(bool(filled.options["grow"])),
        "settings": filled.record,
        "sources": filled.sources,
        "caches": list(known_caches()),
        "decoders": list(known_decoders()),
    }
    return {"id": backend.name, "object": "model", "created": backend.created, "owned_by": "dkv", "dkv": details}
