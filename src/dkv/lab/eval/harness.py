"""A model as lm-eval asks for it: `generate_until`, `loglikelihood`, chat templates. lm-eval itself is not needed here.

Responses go through the engine, batched and kept like any other; likelihoods are LLaDA's estimate, which uses no
cache. A conversation that was rendered here is encoded as one, so that no text of a task can inject control tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dkv.errors import PromptError, SettingError
from dkv.lab.eval.answers import Asker
from dkv.lab.eval.likelihood import Likelihood, Pair
from dkv.lab.eval.questions import Question, Setting, Turns, digest, messages_of
from dkv.tokenizer import Tokenizer

__all__ = ["HarnessModel", "HarnessRequest", "question_of"]

_LENGTH = 256  # of a response whose task does not say; lm-eval's own default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")
_KNOWN = (*_LENGTHS, "until", "do_sample", "temperature", "top_p", "top_k")


class HarnessRequest(Protocol):
    """A request of lm-eval's: an Instance."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Context and continuation, or context and generation arguments."""
        ...


def question_of(context: str, arguments: Mapping[str, Any], block_length: int | None, draw: int = 0) -> Question:
    """A request to generate as a question. The length is rounded up to whole blocks.

    Raises SettingError for generation arguments that are not known here.
    """
    unknown = [name for name in arguments if name not in _KNOWN]
    if unknown:
        raise SettingError(f"generation_kwargs: unknown {unknown[0]!r}; known: {', '.join(_KNOWN)}")
    length = next((int(arguments[name]) for name in _LENGTHS if name in arguments), _LENGTH)
    until = arguments.get("until") or ()
    block = block_length or 1
    temperature = float(arguments.get("temperature") or 0.0)
    if "do_sample" in arguments:
        temperature = (temperature or 1.0) if arguments["do_sample"] else 0.0
    return Question(
        prompt=context,
        gen_length=-(-length // block) * block,
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        chat=False,
        temperature=temperature,
        top_p=arguments.get("top_p") if temperature else None,
        top_k=arguments.get("top_k") if temperature else None,
        draw=draw if temperature else 0,
    )


class HarnessModel:
    """What lm-eval calls. samples: draws for each likelihood; check_greedy: find out whether greedy generation would
    give the continuation (a few tasks score that), else say no; tell: called with the number of results just kept."""

    def __init__(
        self,
        asker: Asker,
        setting: Setting,
        samples: int = 128,
        check_greedy: bool = True,
        tell: Callable[[int], None] = lambda count: None,
    ) -> None:
        if asker.lm.tokenizer is None:
            raise PromptError("lm-eval's tasks are texts, and this checkpoint has no tokenizer")
        self.asker, self.setting, self._samples, self._check_greedy, self._tell = (
            asker, setting, samples, check_greedy, tell,
        )  # fmt: skip
        self._tokenizer: Tokenizer = asker.lm.tokenizer
        self._rendered: dict[str, Turns] = {}

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval names its caches of requests by."""
        return self.asker.lm.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, which comes back as a context. Raises SettingError, PromptError."""
        if not add_generation_prompt:
            raise SettingError(
                "gen_prefix: beginning the assistant's answer is not supported in a chat; use chat=False"
            )
        text = self._tokenizer.render(chat_history)
        self._rendered[text] = tuple((message["role"], message["content"]) for message in chat_history)
        return text

    def generate_until(self, requests: Sequence[HarnessRequest], disable_tqdm: bool = False) -> list[str]:
        """A response for each request, in order. Raises SettingError and PromptError."""
        questions = self.questions_of([request.args for request in requests])
        for _, asked in self.asker.ask(questions, [self.setting]):
            self._tell(len(asked))
        return [self.asker.answer(question, self.setting)["text"] for question in questions]

    def questions_of(self, arguments: Sequence[tuple[Any, ...]]) -> list[Question]:
        """Requests as questions; a request that is repeated is another draw each time."""
        seen: Counter[str] = Counter()
        questions = []
        for context, options in (given[:2] for given in arguments):
            name = digest({"context": context, "options": options})
            question = question_of(context, options, self.setting.block_length, seen[name])
            seen[name] += 1
            questions.append(self._as_chat(question))
        return questions

    def loglikelihood(self, requests: Sequence[HarnessRequest], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, in nats, and whether greedy generation would give it (never so for an
        empty context, which the engine does not take). Raises SettingError under guidance, and PromptError."""
        if self.setting.cfg_scale:
            raise SettingError(f"cfg_scale={self.setting.cfg_scale:g}: likelihoods know no guidance; leave it out")
        pairs = [self.pair_of(*request.args[:2]) for request in requests]
        values = self._kept(pairs, self._likelihood_key, self._likelihoods)
        if not self._check_greedy:
            return [(value, False) for value in values]
        greedy = self._kept(pairs, self._greedy_key, self._greedy)
        return [(value, bool(same)) for value, same in zip(values, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[HarnessRequest], disable_tqdm: bool = False) -> list[float]:
        """Raises SettingError: a diffusion model bounds the likelihood of a response, not the perplexity of a page."""
        raise SettingError(
            "loglikelihood_rolling is not offered for diffusion models; choose tasks that do not need it"
        )

    def pair_of(self, context: str, continuation: str) -> Pair:
        """Token ids of both. Blanks at the context's end count with the continuation, where tokenizers put them."""
        encode = self._tokenizer.encode_bare
        if context in self._rendered:
            prompt = self._tokenizer.encode_chat(messages_of(self._rendered[context]))
            return Pair(tuple(prompt), tuple(encode(continuation)))
        kept = context.rstrip()
        whole = encode(context + continuation)
        return Pair(tuple(self._tokenizer.encode(kept)), tuple(whole[len(encode(kept)) :]))

    def _as_chat(self, question: Question) -> Question:
        messages = self._rendered.get(str(question.prompt))
        if messages is None:
            return question
        return Question(**{**vars(question), "prompt": messages, "chat": True})

    def _kept(
        self, pairs: Sequence[Pair], key_of: Callable[[Pair], str], find: Callable[[Sequence[Pair]], Sequence[float]]
    ) -> list[float]:
        """A number for each pair: what the store has, and for the others what `find` gives, kept batch by batch."""
        store, size = self.asker.store, self.asker.batch_size
        missing = {key: pair for pair in pairs if (key := key_of(pair)) not in store}
        todo = sorted(missing, key=lambda key: len(missing[key].response))
        for first in range(0, len(todo), size):
            some = todo[first : first + size]
            found = find([missing[key] for key in some])
            store.put({key: {"value": value} for key, value in zip(some, found, strict=True)})
            self._tell(len(some))
        return [store.get(key_of(pair))["value"] for pair in pairs]

    def _likelihood_key(self, pair: Pair) -> str:
        """No cache and no decoder has a part in it, so all settings share it."""
        return digest({"likelihood": [pair.prompt, pair.response, self._samples]})

    def _greedy_key(self, pair: Pair) -> str:
        return digest({"greedy": [pair.prompt, pair.response, self.setting.cache, self.setting.decoder]})

    def _likelihoods(self, pairs: Sequence[Pair]) -> list[float]:
        return Likelihood(self.asker.lm.model, self._samples, self.asker.seed, self.asker.batch_size).of(pairs)

    def _greedy(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether the engine, one token a step, fills each response as it is. One call for each length."""
        found = [False] * len(pairs)
        for length in {len(pair.response) for pair in pairs}:
            some = [i for i, pair in enumerate(pairs) if len(pair.response) == length and pair.prompt]
            if some:
                made = self.asker.lm.generate(
                    [pairs[i].prompt for i in some], gen_length=length, seed=self.asker.seed, stop_at_eos=False,
                    cache=self.setting.cache, decoder=self.setting.decoder, batch_size=len(some),
                )  # fmt: skip
                for i, generation in zip(some, made, strict=True):
                    found[i] = tuple(generation.token_ids) == pairs[i].response
        return found
