"""What the routes share: the model that is served, and how a body becomes requests to its engine."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from dkv.errors import ContextError, SettingError
from dkv.params import OPTIONS, SERVED, InfillOptions, Options
from dkv.server.admission import Limits
from dkv.server.api_errors import CONTEXT, ApiError
from dkv.server.schema import ChatBody, CommonRequest, CompletionBody
from dkv.server.served_defaults import Defaults, Source, steps_for
from dkv.tokenizer.tokenizer import encoded
from dkv.version import VERSION

if TYPE_CHECKING:
    from dkv.engine import Request, Service
    from dkv.engine.infill import Part
    from dkv.lm import DiffusionLM

__all__ = ["ModelService", "Prompt", "PromptThreads", "RequestBuilder", "served_name"]

T = TypeVar("T")

Prompt = str | list[int] | Sequence[Mapping[str, str]]
_THREADS = 4
_SEARCHED = 16
"""Prompts that are searched for what to warn of."""


def served_name(name: str) -> str:
    """What clients call a model: a directory by its last part only."""
    return Path(name).resolve().name if Path(name).is_dir() else name


@dataclass(frozen=True)
class RequestBuilder:
    """Makes requests to an engine of bodies that name the model as `name`. parse_special: what a completion's text
    prompt does that does not say it itself. Raises SettingError for a model without tokenizer."""

    lm: DiffusionLM
    limits: Limits
    name: str
    parse_special: bool = False

    def __post_init__(self) -> None:
        if self.lm.tokenizer is None:
            raise SettingError(f"model={self.lm.name!r} has no tokenizer, and the server speaks text; add its files")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what may change a seeded answer: dkv, the model, its dtype, device and kind of weights."""
        model = self.lm.model
        parts = [VERSION, self.lm.name, str(model.dtype), model.device.type]
        parts += [] if self.lm.quantize is None else [self.lm.quantize]
        return "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def bound(self, body: CommonRequest) -> int:
        """Tokens of a choice, at most. A canvas with holes says itself how long it is."""
        if isinstance(body, CompletionBody) and body.canvas:
            return self.limits.max_tokens
        return body.max_tokens or self.limits.tokens(bool(body.grow), body.min_tokens or 0)

    def build(
        self, body: CommonRequest, prompts: Sequence[Prompt], what: str, attend: Callable[[], None] | None = None
    ) -> list[Request]:
        """One request for each choice: `n` for the first prompt, `n` for the second, ... Choice i has the seed + i.

        what: the field that the prompts are in; attend: called again and again, so that it can end the work by raising.
        Raises ApiError (404, 400), SettingError and PromptError.
        """
        attend = attend or _goes_on
        self._check(body, prompts)
        seed = secrets.randbits(32) if body.seed is None else body.seed
        made = [self._request(body, prompt, seed, what, attend) for prompt in prompts]
        for request in made:
            self._check_prompt(len(request.prompt), what)
            if request.settings.gen_length > self._gen_length(body):
                message = f"{what}: its holes reach over {request.settings.gen_length} tokens, and the limit is"
                raise ApiError(400, f"{message} {self.limits.max_tokens}; fill in less", what)
        every = [request for request in made for _ in range(body.n or 1)]
        return [replace(request, seed=seed + number) for number, request in enumerate(every)]

    def warnings(self, body: CommonRequest, prompts: Sequence[Prompt]) -> list[str]:
        """What a client may not expect of its prompts, in words."""
        if not isinstance(body, CompletionBody) or self._parses(body) or self.lm.tokenizer is None:
            return []
        texts = [prompt for prompt in prompts[:_SEARCHED] if isinstance(prompt, str)]
        for text in texts:
            if found := self.lm.tokenizer.control_strings(text):
                held = ", ".join(map(repr, found))
                return [f"prompt holds {held} as plain text; send parse_special=true with a prompt that is rendered"]
        return []

    def _parses(self, body: CommonRequest) -> bool:
        """Whether control tokens in a text prompt count as such."""
        if not isinstance(body, CompletionBody) or body.canvas or body.suffix is not None:
            return False
        return self.parse_special if body.parse_special is None else body.parse_special

    def _check(self, body: CommonRequest, given: Sequence[Prompt]) -> None:
        """Before any work is done."""
        prompts = len(given)
        if body.model != self.name:
            message = f"there is no model {body.model!r} here; this server has {self.name!r}"
            raise ApiError(404, message, "model", "model_not_found")
        if isinstance(body, ChatBody) and len(body.messages) > self.limits.messages:
            message = f"messages: {len(body.messages)} of them exceed the limit of {self.limits.messages}; send fewer"
            raise ApiError(400, message, "messages", "context_length_exceeded")
        choices, most = (body.n or 1) * prompts, self.limits.max_tokens
        if not prompts:
            raise ApiError(400, "prompt=[] holds no prompt; give one", "prompt")
        if choices > self.limits.choices:
            message = f"n={body.n or 1} for {prompts} prompts exceeds the limit of {self.limits.choices} choices"
            raise ApiError(400, f"{message}; send several requests", "n")
        if body.seed is not None and body.seed + choices > 1 << 62:
            raise ApiError(400, f"seed={body.seed} plus {choices - 1} must be below 2**62", "seed")
        for name in ("max_tokens", "block_length"):
            wanted = getattr(body, name) or 0
            if wanted > most:
                code = CONTEXT if wanted >= self.context else None
                raise ApiError(400, f"{name}={wanted} exceeds the limit of {most}; use less", name, code)
        bound = self.bound(body)
        if (body.min_tokens or 0) > bound and not _infills(body):
            raise ApiError(400, f"min_tokens={body.min_tokens} exceeds max_tokens={bound}; use less", "min_tokens")
        if (body.steps or 0) > self._gen_length(body):
            message = f"steps={body.steps} exceeds one step a token; use steps={self._gen_length(body)} or fewer"
            raise ApiError(400, message, "steps")

    def _gen_length(self, body: CommonRequest) -> int:
        """The canvas: max_tokens rounded up to whole blocks. What lies beyond max_tokens is cut from the answer."""
        bound = self.bound(body)
        block = body.block_length or bound
        return -(-bound // block) * block

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return self.lm.model.config.context

    def _check_prompt(self, tokens: int, what: str) -> None:
        if tokens > self.limits.max_prompt:
            most, verb = min(self.limits.max_prompt, self.context - 1), "exceeds" if what == "prompt" else "exceed"
            message = f"{what} of {tokens} tokens {verb} the limit of {most}; shorten it"
            raise ApiError(400, message, what, CONTEXT)

    def _request(
        self, body: CommonRequest, prompt: Prompt, seed: int, what: str, attend: Callable[[], None]
    ) -> Request:
        """The request of a prompt. Raises ApiError where it is too long."""
        attend()
        if isinstance(body, CompletionBody) and _infills(body):
            return self._infilling(body, prompt, seed, what)
        ids = self._ids(body, prompt, what, attend)
        self._check_prompt(len(ids), what)
        fitted = self._fitted(body, len(ids), what)
        gen_length = self._gen_length(fitted)
        options: Options = {
            **fitted.options(OPTIONS),
            "gen_length": gen_length,
            "block_length": fitted.block_length or gen_length,
            "seed": seed,
        }
        if body.ignore_eos:
            options |= {"min_tokens": gen_length, "stop_at_eos": False}
        return self.lm.request(
            ids,
            frames=bool(body.draft),
            **options,
        )

    def _ids(self, body: CommonRequest, prompt: Prompt, what: str, attend: Callable[[], None]) -> list[int]:
        try:
            return encoded(
                prompt,
                chat=False if isinstance(prompt, str) else None,
                gen_length=0,
                tokenizer=self.lm.tokenizer,
                config=self.lm.model.config,
                parse_special=self._parses(body),
                attend=attend,
            )
        except ContextError as error:
            self._check_prompt(error.prompt_tokens, what)
            raise self._too_long(body, error.prompt_tokens, what) from None

    def _fitted(self, body: CommonRequest, tokens: int, what: str) -> CommonRequest:
        """The body with a canvas that a prompt of so many tokens leaves room for. Where it names no max_tokens, the
        answer takes what is left of the context; whole blocks beyond that are left out. Raises ApiError."""
        room = self.context - tokens
        if self._gen_length(body) <= room:
            return body
        if room < max(body.max_tokens or 1, body.min_tokens or 0):
            raise self._too_long(body, tokens, what)
        return self._shortened(body, room)

    def _shortened(self, body: CommonRequest, room: int) -> CommonRequest:
        """The body with a canvas of at most `room` tokens: whole blocks, or a single one where none fits, or where
        whole ones are fewer tokens than the body asks for at least."""
        block = body.block_length if body.block_length is not None and body.block_length <= room else None
        if block is not None and room // block * block < (body.min_tokens or 0):
            block = None
        bound = self.bound(body)
        length = min(bound, room) if block is None else room // block * block
        steps = None if body.steps is None else steps_for(body.steps, length, block or length)
        changes = {"max_tokens": min(bound, length), "block_length": block, "steps": steps}
        return body.model_copy(update=changes if block is not None else {**changes, "grow": None})

    def _too_long(self, body: CommonRequest, tokens: int, what: str) -> ApiError:
        """What is said of a prompt that leaves too little of the context."""
        gap = isinstance(body, CompletionBody) and body.suffix is not None
        message, context = f"{what}{' and suffix' if gap else ''} of {tokens} tokens", self.context
        if tokens >= context:
            verb = "leaves" if what == "prompt" and not gap else "leave"
            message += f" {verb} no room for an answer in the model's context of {context}; shorten {what}"
        elif body.max_tokens is None and body.min_tokens:
            message += f" and min_tokens={body.min_tokens} exceed the model's context of {context}; shorten one"
        elif body.max_tokens is None:
            message += f" and the answer exceed the model's context of {context}; give max_tokens, or shorten it"
        else:
            message += f" and max_tokens={body.max_tokens} exceed the model's context of {context}; shorten one of them"
        return ApiError(400, message, what, CONTEXT)

    def _infilling(self, body: CompletionBody, prompt: Prompt, seed: int, what: str) -> Request:
        """What stands between prompt and suffix, or in the holes of a canvas."""
        parts = [part for part in (prompt, self.bound(body), body.suffix) if part]
        canvas = cast("str", prompt) if body.canvas else cast("list[Part]", parts)
        try:
            options = cast("InfillOptions", body.options(InfillOptions.__annotations__))
            return self.lm.infill_request(canvas, frames=bool(body.draft), **options | {"seed": seed})
        except ContextError as error:
            if not body.canvas:
                raise self._too_long(body, error.prompt_tokens, what) from None
            message = f"{what} and its holes exceed the model's context of {self.context} tokens; shorten it"
            raise ApiError(400, message, what, CONTEXT) from None


class _AbandonedError(Exception):
    """Nobody waits for the work any more."""


class PromptThreads:
    """Few threads that run work beside the event loop, so that many large prompts leave the machine usable. The work
    calls what it is given again and again, which raises once the task that asked for it was cancelled: its client left,
    or the server shuts down. That task does not wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "dkv-prompt")

    async def run(self, work: Callable[[Callable[[], None]], T]) -> T:
        """What the work returns. Raises what it raises."""
        gone = threading.Event()

        def attend() -> None:
            if gone.is_set():
                raise _AbandonedError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, attend)
        finally:
            gone.set()


@dataclass(frozen=True)
class ModelService(RequestBuilder):
    """A service with its model, under the name that clients use."""

    service: Service = field(kw_only=True)
    defaults: Defaults = field(kw_only=True)
    created: int = field(default_factory=lambda: int(time.time()), kw_only=True)
    threads: PromptThreads = field(default_factory=PromptThreads, repr=False, kw_only=True)

    def filled(self, body: CommonRequest) -> tuple[CommonRequest, dict[str, Source]]:
        """The body with every default in its place, and where each of its settings came from. A default gives way where
        it does not fit what the body says. Raises SettingError for a cache "auto" where nothing was tuned."""
        filled = self.defaults.fill(body.options(SERVED), infills=_infills(body))
        full = body.model_copy(update={**filled.options})
        return full.model_copy(update=self._divided(full, filled.sources)), filled.sources

    def _divided(self, body: CommonRequest, sources: Mapping[str, Source]) -> dict[str, int]:
        """A block and steps that the client did not choose, so that they go with what it did."""
        update = dict[str, int]()
        if body.block_length is not None and sources["block_length"] != "request":
            update["block_length"] = min(body.block_length, self.limits.max_tokens)
        full = body.model_copy(update=update)
        whole = self._gen_length(full)
        if body.steps is None or sources["steps"] == sources["block_length"] == "request":
            return update
        if sources["steps"] != "request" or body.steps <= whole:
            update["steps"] = steps_for(body.steps, whole, full.block_length or whole)
        return update

    async def requests(self, body: CommonRequest, prompts: Sequence[Prompt], what: str) -> list[Request]:
        """As `build`, in a thread that stops soon when nobody waits for it any more. body: as `filled` gives it."""
        return await self.threads.run(lambda attend: self.build(body, prompts, what, attend))


def _goes_on() -> None:
    """Somebody waits for the work."""


def _infills(body: CommonRequest) -> bool:
    """Whether a gap is to be filled."""
    return isinstance(body, CompletionBody) and (bool(body.canvas) or body.suffix is not None)
