"""What a line of the input asks for: a prompt, a name, and the settings in which it differs from the others."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from dkv.errors import PromptError, SettingError
from dkv.jobs.openai_lines import OpenAILine, OpenAILines, is_openai_line, read_openai_line
from dkv.jobs.records import Record, answer_record
from dkv.jobs.source import SourceLine
from dkv.params import OPTIONS
from dkv.server.client_fields import NEUTRAL, is_neutral, refusal

if TYPE_CHECKING:
    from dkv.engine import Request
    from dkv.lm import DiffusionLM
    from dkv.outputs import Generation

__all__ = ["ARGUMENTS", "PROMPTS", "Asking", "JobLine", "named", "read_line", "seed_of_line"]

PROMPTS = ("prompt", "messages", "question")
"""The fields that may hold the prompt; `question` is what data sets such as GSM8K call it."""

ARGUMENTS = (*OPTIONS, "chat", "parse_special")
"""The fields that override an argument of the job: those of `lm.request`."""

_WHOLE = frozenset(name for name, option in OPTIONS.items() if option.kind == "whole")
_SWITCHES = (*(name for name, option in OPTIONS.items() if option.kind == "switch"), "chat", "parse_special")
_ALIKE = 0.85
_SHOWN = 40
_LONG = 6
"""Letters of a name: shorter ones are near too many others."""
_OTHER_NAMES = {
    "custom_id": "id",
    "max_completion_tokens": "gen_length",
    "max_gen_toks": "gen_length",
    "max_new_tokens": "gen_length",
    "max_output_tokens": "gen_length",
    "max_tokens": "gen_length",
    "n_predict": "gen_length",
    "num_predict": "gen_length",
    "random_seed": "seed",
    "sampling_seed": "seed",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "temp": "temperature",
    "until": "stop",
}
"""What other programs call an argument. A line may use these names; errors then use them too."""
_SEVERAL = "one answer a line; repeat the line, or use OpenAI's form with n in its body"
_REFUSED = {
    "alg": "give decoder",
    "best_of": _SEVERAL,
    "block_size": "give block_length",
    "cfg": "give cfg_scale",
    "denoising_steps": "give steps",
    "diffusion_steps": "give steps",
    "guidance_scale": "give cfg_scale",
    "ignore_eos": "give stop_at_eos=false, and min_tokens where no end of the text may come",
    "max_length": "counts the prompt too in other programs; give gen_length, the length of the answer",
    "n": _SEVERAL,
    "num_inference_steps": "give steps",
    "num_return_sequences": _SEVERAL,
    "num_samples": _SEVERAL,
    "num_steps": "give steps",
    "remasking": "give decoder",
    "system": "give messages, the first one of the role system",
    "system_prompt": "give messages, the first one of the role system",
}
"""Arguments of other programs that a line cannot have, and what to do instead. Null, 1 and false change nothing."""
_NESTED = (
    *("extra_body", "gen_kwargs", "generate_kwargs", "generation_config", "generation_kwargs", "generation_params"),
    *("options", "parameters", "sampling_parameters", "sampling_params", "settings"),
)
"""Where other programs keep arguments together."""
_COLUMNS = frozenset(
    {"audio", "documents", "grammar", "image_data", "json_schema", "priority", "regex", "store", "suffix", "tools"}
)
"""Fields of `client_fields` that data sets have as well, for other things; they are not looked at."""


@dataclass(frozen=True)
class JobLine:
    """A line that was read. line: its number; name: its `id`, or its number; prompt: as `lm.request` takes it; changes:
    its own arguments; names: what the line calls those that have another name here."""

    line: int
    name: str | int
    prompt: Any
    changes: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)


def named(number: int, error: Exception) -> SettingError:
    """What is wrong with a line, said with its number."""
    return SettingError(f"input: line {number}: {error}")


def read_line(line: SourceLine) -> JobLine | OpenAILine:
    """A line as what it asks for; whether a model can do it is not known here. null counts as left out.

    Raises SettingError and PromptError.
    """
    try:
        found = json.loads(line.text)
    except (ValueError, RecursionError):
        raise SettingError("not JSON; give one object a line") from None
    if not isinstance(found, dict):
        raise SettingError(f"not an object; give one with {' or '.join(PROMPTS)}")
    record = {name: value for name, value in found.items() if value is not None}
    if is_openai_line(record):
        return read_openai_line(line.number, record)
    _check_names(record)
    record, names = _renamed(record)
    name = record.get("id", line.number)
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise SettingError(f"id={name!r} must be a text or a whole number")
    changes = {key: _whole(key, value) for key, value in record.items() if key in ARGUMENTS}
    _check_values(changes)
    return JobLine(line.number, name, _prompt(record), changes, names)


def _renamed(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The line with the arguments called as here, and what it calls them. Raises SettingError for one that is given
    twice."""
    found, names = dict(record), dict[str, str]()
    for theirs, ours in _OTHER_NAMES.items():
        if theirs not in record:
            continue
        if ours in found:
            raise SettingError(f"{theirs} is another name of {names.get(ours, ours)}; give one of them")
        found[ours] = found.pop(theirs)
        names[ours] = theirs
    return found, names


def _whole(name: str, value: Any) -> Any:
    """16 for 16.0, which JSON does not tell apart."""
    return int(value) if name in _WHOLE and type(value) is float and value.is_integer() else value


def _prompt(record: Mapping[str, Any]) -> Any:
    given = [name for name in PROMPTS if name in record]
    if not given:
        raise PromptError(f"no prompt; {_meant_prompt(record)}")
    if len(given) > 1:
        raise PromptError(f"both {' and '.join(given)}; give one of {', '.join(PROMPTS)}")
    value = record[given[0]]
    kind = {"prompt": (str, list), "messages": (list,), "question": (str,)}[given[0]]
    if not isinstance(value, kind):
        wanted = {"prompt": "a text or a list of token ids", "messages": "a list of messages", "question": "a text"}
        raise PromptError(f"{given[0]}={str(value)[:40]!r} must be {wanted[given[0]]}")
    if given[0] == "messages" and not (value and all(isinstance(message, dict) for message in value)):
        raise PromptError("messages must be a list of {'role': ..., 'content': ...}, the user's last")
    return value


def _meant_prompt(record: Mapping[str, Any]) -> str:
    """What to do in a line without a prompt: the field that nearly is one, or the names."""
    for name in record:
        like = difflib.get_close_matches(name.lower(), PROMPTS, n=1, cutoff=_ALIKE)
        if like:
            return f"unknown field {name!r}: did you mean {like[0]!r}?"
    return f"give one of {', '.join(PROMPTS)}"


def _check_names(record: Mapping[str, Any]) -> None:
    """A data set's other fields are none of our business, but a misspelt argument is, and so is one of another program
    that would change the answer. Raises SettingError."""
    for name, value in record.items():
        if name in _REFUSED and not (value is False or (value is not True and value == 1)):
            raise SettingError(f"{name}={_shown(value)}: {_REFUSED[name]}", name)
        if name in NEUTRAL and name not in _COLUMNS | _REFUSED.keys() and not is_neutral(name, value):
            raise SettingError(f"{name}={_shown(value)}: {refusal(name).replace(' by this server', '')}", name)
        if name in _NESTED and isinstance(value, dict) and value.keys() & {*ARGUMENTS, *_OTHER_NAMES}:
            raise SettingError(f"{name}={_shown(value)}: arguments are fields of the line itself; put them there", name)
        meant = _meant(name)
        if meant is not None:
            raise SettingError(f"unknown field {name!r}; spell it {meant!r}, or leave it out", name)


def _shown(value: Any) -> str:
    """A value as the line has it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@lru_cache(maxsize=1024)  # a file has few names and many lines
def _meant(name: str) -> str | None:
    """The argument that a field which is none was probably meant to be."""
    if name in (*ARGUMENTS, *PROMPTS, *_OTHER_NAMES, *NEUTRAL, "id"):
        return None
    known = (*ARGUMENTS, *(other for other in _OTHER_NAMES if len(other) >= _LONG))
    like = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=_ALIKE)
    return like[0] if like else None


def _check_values(changes: Mapping[str, Any]) -> None:
    """What JSON can say and an argument cannot be, where the library would not see it. Raises SettingError."""
    for name in _SWITCHES:
        if not isinstance(changes.get(name, True), bool):
            raise SettingError(f"{name}={changes[name]!r} must be true or false")
    if isinstance(changes.get("seed"), list):
        raise SettingError(f"seed={changes['seed']!r} must be a whole number")


def seed_of_line(seed: int, number: int) -> int:
    """A line's own seed, below 2**53 so that every reader of JSON keeps it whole."""
    found = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(found, "big") >> 11


@dataclass(frozen=True)
class Asking:
    """Lines as requests to a model. arguments: the job's, by name; seed: the job's own."""

    lm: DiffusionLM
    arguments: Mapping[str, Any]
    seed: int

    def request(self, asked: JobLine) -> Request:
        """The request of a line. Raises SettingError and PromptError."""
        own = {"seed": seed_of_line(self.seed, asked.line)}
        try:
            request = self.lm.request(asked.prompt, **{**self.arguments, **own, **asked.changes})
        except (SettingError, PromptError) as error:
            raise _in_words_of(asked, error) from None
        return replace(request, deltas=False)

    def requests(self, asked: JobLine | OpenAILine) -> list[Request]:
        """The requests of a line: one, but in OpenAI's form perhaps several. Raises SettingError and PromptError."""
        if isinstance(asked, JobLine):
            return [self.request(asked)]
        return self._openai.requests(asked, seed_of_line(self.seed, asked.line))

    def record(
        self, asked: JobLine | OpenAILine, requests: Sequence[Request], generations: Sequence[Generation]
    ) -> Record:
        """What a line's requests came to."""
        if isinstance(asked, JobLine):
            return answer_record(asked.line, asked.name, generations[0])
        return self._openai.record(asked, requests, generations)

    @cached_property
    def _openai(self) -> OpenAILines:
        return OpenAILines(self.lm, self.arguments)

    def check_job(self) -> None:
        """Raises SettingError where the job's own arguments cannot be; else that would be said of its first line."""
        self.lm.request([0], **self.arguments)

    def check(self, line: SourceLine) -> None:
        """Raises SettingError naming the line where it cannot be asked."""
        try:
            self.requests(read_line(line))
        except (SettingError, PromptError) as error:
            raise named(line.number, error) from None


def _in_words_of(asked: JobLine, error: SettingError | PromptError) -> SettingError:
    """An error that calls the arguments as the line does."""
    return SettingError(error.message_with(asked.names), asked.names.get(error.argument or "", error.argument))
