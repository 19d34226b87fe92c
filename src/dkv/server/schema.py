"""Request bodies: OpenAI's fields that a diffusion model can honour, and dkv's own beside them.

A field that nobody knows is refused, so that a misspelt one is not silently without effect. Fields of other servers are
accepted at the values that change nothing, and refused at others: dkv.server.client_fields has the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from dkv.errors import PromptError
from dkv.params import DEFAULTS, OPTIONS, Option, Options
from dkv.server.client_fields import DROPPED, NEUTRAL, is_neutral, refusal
from dkv.tokenizer.chat import MESSAGE_TYPES, well_formed, well_formed_label

__all__ = [
    "ChatBody",
    "CommonRequest",
    "CompletionBody",
    "Message",
    "StreamOptions",
    "TextPart",
    "with_options",
    "with_unchecked_options",
]

B = TypeVar("B", bound=BaseModel)

_MESSAGE_NULLS = frozenset(
    {"annotations", "audio", "function_call", "reasoning", "reasoning_content", "refusal", "tool_calls"}
)
"""What OpenAI's clients send back with an assistant's message, empty."""
_LAST_ROLES = ("user", "tool", "function")
_INT64 = 1 << 63


def _refused(name: str, why: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported", "{why}", {"param": name, "why": why})


def _whole(value: object) -> object:
    """16 for 16.0: JSON does not tell them apart, and clients in languages that do not either send both."""
    if type(value) is float and value.is_integer() and abs(value) < _INT64:
        return int(value)
    return value


def _whole_ids(value: object) -> object:
    """`_whole` for lists of token ids, or of such lists."""
    if not isinstance(value, list):
        return value
    return [[_whole(one) for one in part] if isinstance(part, list) else _whole(part) for part in value]


def _no_filter(*values: int) -> BeforeValidator:
    """None for the values with which other servers say that nothing is filtered."""
    return BeforeValidator(lambda value: None if type(value) is int and value in values else value)


def _no_suffix(value: object) -> object:
    """None for the empty text, after which nothing follows either; else as `_whole_ids`."""
    return None if value == "" else _whole_ids(value)


def _saying(message: str) -> WrapValidator:
    """One line instead of an account of each form that a value does not have."""

    def check(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("form", message) from None

    return WrapValidator(check)


_Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, lt=1 << 31)]
_Number = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=1 << 31)]
_Id = Annotated[int, Field(ge=0, lt=1 << 31)]
_Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=1 << 62)]
_TopK = Annotated[_Count | None, _no_filter(-1, 0), BeforeValidator(_whole)]
_Text = Annotated[str, Field(min_length=1)]
_Stop = Annotated[
    _Text | Annotated[list[_Text], Field(max_length=16)] | None,
    _saying("must be a text, or a list of at most 16, none empty"),
]
_Prompt = Annotated[
    str | list[_Id] | list[str] | list[list[_Id]],
    BeforeValidator(_whole_ids),
    _saying("must be a text, a list of token ids, or a list of texts or of such lists"),
]


class _Body(BaseModel):
    """A JSON object without fields that nobody knows. A field at null counts as left out, whatever its name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(_Body):
    """How usage is told in a stream; without `stream` it has no effect. include_usage: a last chunk without choices has
    it; continuous_usage_stats: every chunk has what it is so far."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


def with_options(body: type[B]) -> type[B]:
    """The body with a field for each option of a generation that is not there already in a form of its own."""
    return _with_fields(body, _form)


def with_unchecked_options(body: type[B]) -> type[B]:
    """As `with_options`, with fields of which only the types are checked; `SamplingParams` checks the rest."""
    types: dict[str, Any] = {"number": float, "whole": int, "switch": bool}
    return _with_fields(body, lambda option: types.get(option.kind, str))


def _with_fields(body: type[B], form: Callable[[Option], Any]) -> type[B]:
    made: dict[str, Any] = {
        name: (form(option) | None, Field(None, description=_description(name, option)))
        for name, option in OPTIONS.items()
        if option.served != "other" and name not in body.model_fields
    }
    return create_model(body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **made)


def _form(option: Option) -> Any:
    """The type of a field with an option's values."""
    if option.kind == "number":
        lowest: dict[str, Any] = {"gt" if option.exclusive else "ge": option.least}
        return Annotated[float, Field(le=option.most, allow_inf_nan=False, **lowest)]
    if option.kind == "whole":
        return Annotated[int, BeforeValidator(_whole), Field(ge=int(option.least), lt=1 << 31)]
    return bool if option.kind == "switch" else str


def _description(name: str, option: Option) -> str:
    unset = option.served_unset or option.unset or DEFAULTS[name]
    return f"{option.help.removesuffix('.')}; default: {json.dumps(unset) if type(unset) is bool else unset}"


class CommonRequest(_Body):
    """What both endpoints take. Options of a generation that are not listed here are added by `with_options`."""

    neutral_here: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields that an endpoint does not have, with the values that change nothing at this one alone."""

    model: str
    max_tokens: _Count | None = Field(None, description="tokens of a choice, at most")
    n: _Count | None = Field(None, description="choices for each prompt; default 1")
    best_of: _Count | None = Field(None, description="as n, or left out: all choices are returned")
    seed: _Seed | None = Field(None, description="choice i is drawn with seed + i")
    stop: _Stop = Field(None, description="texts before which a choice ends")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    block_length: _Count | None = Field(None, description="tokens per block; default 64 where the canvas grows")
    draft: bool | None = Field(None, description="streams each step's provisional text beside the final text")
    grow: bool | None = Field(
        None, description="the canvas grows by blocks up to max_tokens; default true without steps"
    )
    ignore_eos: bool | None = Field(None, description="true: no end-of-text, so the answer has max_tokens tokens")
    min_tokens: _Number | None = Field(None, description="no end-of-text among so many first tokens; default 0")
    steps: _Count | None = Field(None, description="denoising steps of a whole canvas; default: one a token")
    top_k: _TopK = Field(None, description="samples from this many tokens")

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, data: Any) -> Any:
        """Drop other servers' fields that change nothing here; refuse those that would."""
        if not isinstance(data, dict):
            return data
        others = (NEUTRAL.keys() | DROPPED | cls.neutral_here.keys()) - cls.model_fields.keys()
        for name, value in data.items():
            if name not in others - DROPPED or value is None:
                continue
            if name in cls.neutral_here:
                if value not in cls.neutral_here[name]:
                    raise _refused(name, f"must be {json.dumps(cls.neutral_here[name][0])} here; leave it out")
            elif not is_neutral(name, value):
                raise _refused(name, refusal(name))
        return {name: value for name, value in data.items() if name not in others}

    def options(self, names: Collection[str]) -> Options:
        """The options of these names that the body has, as `lm.request` takes them."""
        found = {name: getattr(self, name, None) for name in names}
        return cast("Options", {name: value for name, value in found.items() if value is not None})

    @model_validator(mode="after")
    def _agree(self) -> CommonRequest:
        """Fields that need each other."""
        if self.draft and not self.stream:
            raise PydanticCustomError("alone", "needs stream=true", {"param": "draft"})
        if self.best_of not in (None, self.n or 1):
            raise _refused("best_of", refusal("best_of"))
        return self


@with_options
class CompletionBody(CommonRequest):
    """POST /v1/completions: texts go to the model as they are, without a chat template."""

    neutral_here: ClassVar[dict[str, tuple[Any, ...]]] = {"add_special_tokens": (True,)}

    prompt: _Prompt
    suffix: Annotated[str | list[_Id] | None, BeforeValidator(_no_suffix)] = Field(
        None, description="what follows: max_tokens are filled in between"
    )
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
    """Parts of text as one text; other keys of a part, such as cache hints, change nothing. Raises
    PydanticCustomError for parts of other kinds."""
    if not isinstance(content, list):
        return content
    return "".join(_text_of(part) for part in content)


def _text_of(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("type", "text"), str):
        raise PydanticCustomError("part", 'parts must be like {"type": "text", "text": "..."}')
    kind = part.get("type", "text")
    if kind not in ("text", "input_text", "output_text"):
        raise PydanticCustomError(
            "part", "parts of type {kind} are not supported: the model reads text only", {"kind": kind[:40]}
        )
    if not isinstance(part.get("text"), str):
        raise PydanticCustomError("part", 'parts must be like {"type": "text", "text": "..."}')
    return str(part["text"])


class Message(_Body):
    """One message of a conversation. content: a text, or parts of type text, which are joined; the assistant's may be
    missing. name: who speaks, for templates that print it; tool_call_id: of a tool's message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart] | None)]
    name: str | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, data: Any) -> Any:
        """Drop what OpenAI's clients send back empty, and the kind, which is the same for all messages."""
        if not isinstance(data, dict):
            return data
        for name in data.keys() & _MESSAGE_NULLS:
            if data[name] not in (None, [], "", {}):
                raise _refused_in_message(name)
        kind = data.get("type")
        if kind is not None and kind not in MESSAGE_TYPES:
            raise PydanticCustomError("unsupported", "only messages are supported; leave out type", {})
        kept = {name: value for name, value in data.items() if name not in _MESSAGE_NULLS and name != "type"}
        if kept.get("role") == "assistant" and kept.get("content") is None:
            kept["content"] = ""
        return kept

    @model_validator(mode="after")
    def _is_text(self) -> Message:
        """Half a surrogate pair is no text, and a name is one word."""
        try:
            well_formed(self.content, "content")
            well_formed_label(self.name, "the name is")
            well_formed_label(self.tool_call_id, "the tool_call_id is")
        except PromptError as error:
            raise PydanticCustomError("text", "{why}", {"why": str(error)}) from None
        return self


def _refused_in_message(name: str) -> PydanticCustomError:
    if name in ("tool_calls", "function_call"):
        return PydanticCustomError(
            "unsupported", "tool calling is not supported by this server; leave out {name}", {"name": name}
        )
    return PydanticCustomError("unsupported", "messages are of text only; leave out {name}", {"name": name})


@with_options
class ChatBody(CommonRequest):
    """POST /v1/chat/completions: the conversation goes through the checkpoint's chat template."""

    neutral_here: ClassVar[dict[str, tuple[Any, ...]]] = {"add_special_tokens": (False,)}

    messages: Annotated[list[Message], Field(min_length=1), FailFast()]  # one error will do, of however many
    max_completion_tokens: _Count | None = Field(None, description="OpenAI's newer max_tokens")

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatBody:
        """Something that can be answered comes last."""
        where, last = f"messages[{len(self.messages) - 1}]", self.messages[-1]
        if last.role not in _LAST_ROLES:
            message = "{where}.role={role}: end the conversation with the user's message"
            raise PydanticCustomError(
                "role", message, {"param": "messages", "where": where, "role": json.dumps(last.role)}
            )
        if not last.content.strip():
            message = "{where}.content is empty; give at least one token of text"
            raise PydanticCustomError("empty", message, {"param": "messages", "where": where})
        return self

    @model_validator(mode="after")
    def _one_bound(self) -> ChatBody:
        """max_tokens, whichever it was called."""
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                message = "{older} differs from max_completion_tokens={newer}; give one"
                numbers = {"newer": self.max_completion_tokens, "older": self.max_tokens}
                raise PydanticCustomError("both", message, {"param": "max_tokens", **numbers})
            self.max_tokens = self.max_completion_tokens
        return self
