"""lm-eval (the extra `eval`): dkv as its registered model "dkv", and its tasks run under several settings.

    from dkv.lab.eval.lm_harness import registered_class
    registered_class()  # from here on lm_eval.simple_evaluate(model="dkv", model_args={"model": ...}) knows it

lm-eval is imported only when `registered_class` or a method of `Tasks` is called. Responses go through the engine,
batched and kept like any other; likelihoods are LLaDA's estimate, which uses no cache. A conversation that was rendered
here is encoded as one, so that no text of a task can inject control tokens.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

from dkv.errors import PromptError, SettingError
from dkv.lab.eval.answers import ANSWERS, Asker, key_of
from dkv.lab.eval.eval_table import ExampleOutcome, TaskOutcomes
from dkv.lab.eval.likelihood import Likelihood, Pair
from dkv.lab.eval.questions import Question, Setting, Turns, digest, messages_of
from dkv.lab.eval.suites import EMBEDDED
from dkv.lm import DiffusionLM
from dkv.loading import load
from dkv.storage.jsonl import Store
from dkv.tokenizer import Tokenizer

__all__ = ["HarnessModel", "Tasks", "question_of", "registered_class"]

Instance = Any
"""A request of lm-eval's, whose `args` are a context and a continuation, or a context and generation arguments."""

_LENGTH = 256  # of a response whose task does not say; lm-eval's own default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")
_KNOWN = (*_LENGTHS, "until", "do_sample", "temperature", "top_p", "top_k")


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
        self.asker, self.setting, self._tell = asker, setting, tell
        self._samples, self._check_greedy = samples, check_greedy
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

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
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
            if context in self._rendered:
                question = replace(question, prompt=self._rendered[context], chat=True)
            questions.append(question)
        return questions

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, in nats, and whether greedy generation would give it (never so for an
        empty context, which the engine does not take). Raises SettingError under guidance, and PromptError."""
        if self.setting.cfg_scale:
            raise SettingError(f"cfg_scale={self.setting.cfg_scale:g}: likelihoods know no guidance; leave it out")
        pairs = [self.pair_of(*request.args[:2]) for request in requests]
        # No cache and no decoder has a part in a likelihood, so all settings share it.
        values = self._kept("likelihood", (self._samples,), pairs, self._likelihoods)
        if not self._check_greedy:
            return [(value, False) for value in values]
        greedy = self._kept("greedy", (self.setting.cache, self.setting.decoder), pairs, self._greedy)
        return [(value, bool(same)) for value, same in zip(values, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
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

    def _kept(
        self, kind: str, told: tuple[Any, ...], pairs: Sequence[Pair], find: Callable[[Sequence[Pair]], Sequence[float]]
    ) -> list[float]:
        """A number for each pair: what the store has, and for the others what `find` gives, kept batch by batch. told:
        what else decides it."""
        store, size = self.asker.store, self.asker.batch_size
        keys = [digest({kind: [pair.prompt, pair.response, *told]}) for pair in pairs]
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in store}
        todo = sorted(missing, key=lambda key: len(missing[key].response))
        for first in range(0, len(todo), size):
            some = todo[first : first + size]
            found = find([missing[key] for key in some])
            store.put({key: {"value": value} for key, value in zip(some, found, strict=True)})
            self._tell(len(some))
        return [store.get(key)["value"] for key in keys]

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


@once
def registered_class() -> Any:
    """The subclass of lm-eval's LM, registered as "dkv". Raises SettingError where lm-eval is not installed."""
    base: Any = _import("lm_eval.api.model").LM

    class DkvLM(HarnessModel, base):  # type: ignore[misc]
        """See `HarnessModel`; the arguments are those of `lm.generate` and of `dkv eval`."""

        def __init__(
            self,
            model: str | DiffusionLM = "tiny",
            cache: str = "dkv-decode",
            decoder: str | None = None,
            gen_length: int | None = None,
            block_length: int | None = None,
            steps: int | None = None,
            cfg_scale: float = 0.0,
            seed: int = 0,
            mc_samples: int = 128,
            check_greedy: bool = True,
            batch_size: int | str = 32,
            max_batch_size: int | None = None,
            device: str = "auto",
            dtype: str = "auto",
            quantize: str | None = None,
            store: Store | None = None,
            tell: Callable[[int], None] = lambda count: None,
        ) -> None:
            base.__init__(self)
            if not str(batch_size).isdecimal() or int(batch_size) < 1:
                raise SettingError(f"batch_size={batch_size!r} must be a whole number of at least 1")
            if not isinstance(model, DiffusionLM):
                model = load(model, device=device, dtype=dtype, quantize=quantize)
            lm = model
            kind = decoder or lm.model.config.default_decoder
            setting = Setting(kind, cache, cfg_scale, block_length, steps, gen_length)
            kept = Store(None, {}, ANSWERS) if store is None else store
            HarnessModel.__init__(self, Asker(lm, kept, seed, int(batch_size)), setting, mc_samples, check_greedy, tell)

    return _import("lm_eval.api.registry").register_model("dkv")(DkvLM)


@dataclass(frozen=True)
class Tasks:
    """Tasks of lm-eval by name. include_path: a directory of further YAML tasks; count: examples of each; chat: whether
    contexts go through the chat template; num_fewshot: None = the task's own; unconfined_code: consent to what lm-eval
    itself executes, without dkv's sandbox; seed: of its choice of examples; samples: draws for each likelihood."""

    names: tuple[str, ...]
    include_path: Path | None = None
    count: int | None = None
    chat: bool = False
    num_fewshot: int | None = None
    unconfined_code: bool = False
    seed: int = 0
    samples: int = 128

    def manager(self) -> Any:
        """lm-eval's finder of tasks: only the given directory where that holds them all, else its own too.

        Raises SettingError for a name that is in neither, and where lm-eval is not installed.
        """
        try:
            maker = _import("lm_eval.tasks").TaskManager
        except SettingError as error:
            own = ", ".join(EMBEDDED)
            raise SettingError(f"tasks: {self.names[0]!r} is no task of dkv ({own}); {error}") from None
        if self.include_path is not None:
            if not self.include_path.is_dir():
                raise SettingError(f"include_path={str(self.include_path)!r} must be a directory of YAML files")
            alone = maker(include_path=str(self.include_path), include_defaults=False)
            if set(self.names) <= set(alone.all_tasks):
                return alone
        found = maker(include_path=None if self.include_path is None else str(self.include_path))
        for name in self.names:
            if name not in found.all_tasks:
                raise SettingError(f"tasks: {name!r} is neither a task of dkv nor of lm-eval; see `lm_eval ls tasks`")
        return found

    def run(self, asker: Asker, setting: Setting, manager: Any, tell: Callable[[int], None]) -> list[TaskOutcomes]:
        """Run them under one setting. Raises SettingError, PromptError, and OSError where data cannot be fetched."""
        model = registered_class()(
            asker.lm, setting.cache, setting.decoder, setting.gen_length, setting.block_length, setting.steps,
            setting.cfg_scale, asker.seed, self.samples, batch_size=asker.batch_size, store=asker.store, tell=tell,
        )  # fmt: skip
        try:
            results = _import("lm_eval").simple_evaluate(
                model=model, tasks=list(self.names), num_fewshot=self.num_fewshot, limit=self.count, bootstrap_iters=0,
                task_manager=manager, apply_chat_template=self.chat, fewshot_as_multiturn=self.chat,
                confirm_run_unsafe_code=self.unconfined_code, random_seed=self.seed, numpy_random_seed=self.seed,
                torch_random_seed=self.seed, fewshot_random_seed=self.seed,
            )  # fmt: skip
        except ValueError as error:
            if "unsafe" in str(error):
                raise SettingError(
                    f"tasks: {', '.join(self.names)} run what the model writes without limits; use --humaneval PATH, "
                    "or allow it with --unconfined-code"
                ) from None
            raise
        return [found for task, samples in results["samples"].items() for found in _measured(model, task, samples)]


def _measured(model: HarnessModel, task: str, samples: Sequence[dict[str, Any]]) -> list[TaskOutcomes]:
    """Every metric of a task that has a number for each example."""
    made: dict[str, dict[str, ExampleOutcome]] = {}
    for sample in samples:
        suffix = "" if sample["filter"] == "none" else f", {sample['filter']}"
        for metric in sample["metrics"]:
            if isinstance(sample[metric], (bool, int, float)):
                outcome = _outcome(model, sample, float(sample[metric]))
                made.setdefault(metric + suffix, {})[str(sample["doc_id"])] = outcome
    return [TaskOutcomes(task, model.setting, metric, outcomes) for metric, outcomes in made.items()]


def _outcome(model: HarnessModel, sample: dict[str, Any], value: float) -> ExampleOutcome:
    """One example's value, with what its generations took; a likelihood takes none."""
    output = repr(sample["resps"])
    if not isinstance(sample["arguments"][0][-1], dict):
        return ExampleOutcome(value, output)
    asked = [model.asker.store.get(key_of(q, model.setting)) for q in model.questions_of(sample["arguments"])]
    names = ("tokens", "seconds", "rows", "rows_total")
    return ExampleOutcome(value, output, **{name: sum(record[name] for record in asked) for name in names})


def _import(name: str) -> Any:
    """A module of lm-eval. Raises SettingError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "lm_eval":
            raise
        raise SettingError("lm-eval, which has others, is not installed: pip install 'dkv[eval]'") from None
