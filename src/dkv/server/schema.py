"""Request bodies: OpenAI's fields that a diffusion model can honour, and dkv's own beside them.

A field that nobody knows is refused, so that a misspelt one is not silently without effect. Of OpenAI's other fields,
those that change no answer are accepted and dropped; those that would are accepted at the value that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

__all__ = ["ChatBody", "CompletionBody", "Message", "Settings", "StreamOptions", "TextPart"]

_DROPPED = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "user"})
_HARMLESS: dict[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "the model writes text only"),
    "best_of": ((1,), "all n choices are returned"),
    "echo": ((False,), "the prompt is not repeated"),
    "frequency_penalty": ((0, 0.0), "there are no penalties"),
    "function_call": (("none", "auto"), "there are no tools"),
    "functions": (([],), "there are no tools"),
    "logit_bias": (({},), "logits are not biased"),
    "logprobs": ((False,), "a position's probabilities change from step to step, and none is the answer's"),
    "modalities": ((["text"],), "the model writes text only"),
    "parallel_tool_calls": ((True, False), "there are no tools"),
    "prediction": ((), "there are no predicted outputs"),
    "presence_penalty": ((0, 0.0), "there are no penalties"),
    "reasoning_effort": ((), "the model has no such setting; use steps"),
    "response_format": (({"type": "text"},), "the model writes text only"),
    "store": ((False,), "nothing is stored"),
    "suffix": ((), "a conversation has none; use /v1/completions"),
    "tool_choice": (("none", "auto"), "there are no tools"),
    "tools": (([],), "there are no tools"),
    "top_logprobs": ((0,), "there are no logprobs"),
    "verbosity": ((), "the model has no such setting"),
    "web_search_options": ((), "there is no search"),
}
_MESSAGE_NULLS = frozenset({"annotations", "audio", "function_call", "name", "refusal", "tool_calls"})
"""What OpenAI's clients send back with an assistant's message, empty."""


def _refused(name: str, why: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported", "{why}; leave it out", {"param": name, "why": f"is not supported: {why}"})


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


def _saying(message: str) -> WrapValidator:
    """One line instead of an account of each form that a value does not have."""

    def check(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("form", message) from None

    return WrapValidator(check)


_Count = Annotated[int, Field(ge=1, lt=1 << 31)]
_Id = Annotated[int, Field(ge=0, lt=1 << 31)]
_Temperature = Annotated[float, Field(ge=0, le=1e6)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]
_Stop = Annotated[
    _Text | Annotated[list[_Text], Field(max_length=16)] | None,
    _saying("must be a text, or a list of at most 16, none empty"),
]
_Prompt = Annotated[
    str | list[_Id] | list[str] | list[list[_Id]],
    _saying("must be a text, a list of token ids, or a list of texts or of such lists"),
]


class StreamOptions(BaseModel):
    """Of a streamed answer. include_usage: a last chunk without choices says the usage."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Settings(BaseModel):
    """What both endpoints take. null stands for a field's default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: _Count | None = Field(None, description="tokens of a choice, at most")
    n: _Count | None = Field(None, description="choices for each prompt; default 1")
    seed: Annotated[int, Field(ge=0, lt=1 << 62)] | None = Field(None, description="choice i is drawn with seed + i")
    stop: _Stop = Field(None, description="texts before which a choice ends")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: _Temperature | None = Field(None, description="default 0: the most likely token")
    top_p: _Share | None = Field(None, description="samples from this share of the probability")

    block_length: _Count | None = Field(None, description="tokens per block; default: one block")
    cache: str | None = Field(None, description="a cache's spec; default dkv-decode")
    cfg_scale: _Scale | None = Field(None, description="strength of guidance; default 0, none")
    decoder: str | None = Field(None, description="a decoder's spec; default: the model family's own")
    draft: bool | None = Field(None, description="streams each step's provisional text beside the final text")
    eos_penalty: _Scale | None = Field(None, description="taken from the end-of-text's logits; default 0")
    grow: bool | None = Field(None, description="the canvas grows by blocks up to max_tokens; default false")
    min_tokens: _Id | None = Field(None, description="no end-of-text among so many first tokens; default 0")
    steps: _Count | None = Field(None, description="denoising steps; default: one a token")
    top_k: _Count | None = Field(None, description="samples from this many tokens")

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, data: Any) -> Any:
        """Drop OpenAI's fields that change nothing; refuse those that would."""
        if not isinstance(data, dict):
            return data
        for name in data.keys() & _HARMLESS.keys() - cls.model_fields.keys():
            values, why = _HARMLESS[name]
            if data[name] is not None and not any(_same(data[name], value) for value in values):
                raise _refused(name, why)
        dropped = (_HARMLESS.keys() | _DROPPED) - cls.model_fields.keys()
        return {name: value for name, value in data.items() if name not in dropped}

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        """Fields that need each other."""
        for name in ("stream_options", "draft"):
            if getattr(self, name) and not self.stream:
                raise PydanticCustomError("alone", "needs stream=true", {"param": name})
        return self


class CompletionBody(Settings):
    """POST /v1/completions: texts go to the model as they are, without a chat template."""

    prompt: _Prompt
    suffix: str | list[_Id] | None = Field(None, description="what follows: max_tokens are filled in between")
    canvas: bool | None = Field(
        None, description="the prompt has holes, {mask} or {mask:12}, to fill in; default false"
    )

    parse_special: bool | None = Field(
        None, description="the strings of control tokens in a text prompt are those tokens; default false"
    )

    @model_validator(mode="after")
    def _one_gap(self) -> CompletionBody:
        """What infilling does not go with."""
        gap = "canvas" if self.canvas else "suffix" if self.suffix is not None else None
        if gap is None:
            return self
        if self.canvas and self.suffix is not None:
            raise PydanticCustomError("both", "does not go with canvas; mark a hole in prompt", {"param": "suffix"})
        if self.canvas and not isinstance(self.prompt, str):
            raise PydanticCustomError("form", "must be one text with holes, with canvas", {"param": "prompt"})
        for name in ("stop", "grow", "parse_special"):
            if getattr(self, name):
                raise PydanticCustomError("unsupported", f"does not go with {gap}; leave it out", {"param": name})
        return self


class TextPart(TypedDict):
    """A part of a message."""

    type: Literal["text"]
    text: str


def _joined(content: object) -> object:
    """Parts of text as one text. Raises PydanticCustomError for other parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"):
            raise PydanticCustomError("part", 'only parts like {"type": "text", "text": "..."} are supported')
    return "".join(str(part["text"]) for part in content)


class Message(BaseModel):
    """One message of a conversation. content: a text, or parts of type text, which are joined."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart])]

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, data: Any) -> Any:
        """Drop what OpenAI's clients send back empty."""
        if not isinstance(data, dict):
            return data
        for name in data.keys() & _MESSAGE_NULLS:
            if data[name] not in (None, []):
                raise PydanticCustomError("unsupported", "messages of text only; leave out {name}", {"name": name})
        return {name: value for name, value in data.items() if name not in _MESSAGE_NULLS}


class ChatBody(Settings):
    """POST /v1/chat/completions: the conversation goes through the checkpoint's chat template."""

    messages: Annotated[list[Message], Field(min_length=1), FailFast()]  # one error will do, of however many
    max_completion_tokens: _Count | None = Field(None, description="OpenAI's newer max_tokens")

    @model_validator(mode="after")
    def _one_bound(self) -> ChatBody:
        """max_tokens, whichever it was called."""
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise PydanticCustomError("both", "differs from max_tokens; give one", {"param": "max_tokens"})
            self.max_tokens = self.max_completion_tokens
        return self
