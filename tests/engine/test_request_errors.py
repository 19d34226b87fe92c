"""A request that fails is dropped and told why; every other one gets what it gets alone, and the engine goes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import dkv
from dkv.core.canvas import Canvas
from dkv.core.layer_rules import Rules
from dkv.core.policy import Plan, ReadsBlock, Step, most
from dkv.core.sampling import Predictions
from dkv.engine.watchdog import OvertimeError, bounded
from dkv.outputs import Generation
from tests.support.engine_runs import alone, ended, same

Break = Callable[[Any], Any]
"""From what a verb would give to what it gives instead."""


def fine(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Policy:
    """Computes everything, until its sequences' clock is `at`."""

    name: ClassVar[str] = "theirs"
    broken: Break = field(default=fine, compare=False)
    at: int = 0
    mark: int = 0

    def plan(self, step: Step) -> Plan:
        plan = Plan(step.canvas.live)
        return self.broken(plan) if bool((step.num_forwards == self.at).any()) else plan


@dataclass(frozen=True)
class Rule(ReadsBlock):
    """Fixes the most confident, and breaks in one verb."""

    name: ClassVar[str] = "theirs"
    adaptive: ClassVar[bool] = False
    state_size: ClassVar[int] = 1
    broken: Break = field(default=fine, compare=False)
    verb: str = "none"
    at: int = 0

    def _may(self, verb: str, value: Any, step: Step | None = None) -> Any:
        due = step is None or bool((step.num_forwards == self.at).any())
        return self.broken(value) if verb == self.verb and due else value

    def commit_order(self, canvas: Canvas) -> Any:
        return self._may("commit_order", super().commit_order(canvas))

    def query(self, step: Step) -> Any:
        return self._may("query", super().query(step), step)

    def update_state(self, step: Step, read: Predictions) -> Any:
        return self._may("update_state", torch.ones(len(read.flat), 1), step)

    def commit(self, step: Step, read: Predictions) -> Any:
        return self._may("commit", most(read, read.confidence, step.num_transfer_tokens), step)


def raising(error: BaseException) -> Break:
    def broken(_: Any) -> Any:
        raise error

    return broken


def looping(_: Any) -> Any:
    for _ in itertools.count():
        with contextlib.suppress(Exception):
            pass


MASKS: dict[str, Break] = {
    "an exception": raising(ValueError("boom\nand more")),
    "an assertion": raising(AssertionError()),
    "a system exit": raising(SystemExit(3)),
    "a cancellation": raising(asyncio.CancelledError()),
    "no memory": raising(MemoryError()),
    "a stop of an iterator": raising(StopIteration()),
    "None": lambda _: None,
    "a list": lambda x: x.tolist(),
    "one row less": lambda x: x[:-1],
    "one column more": lambda x: torch.cat((x, x[:, :1]), dim=1),
    "no dimension": lambda x: x.any(),
    "complex numbers": lambda x: x.to(torch.complex64),
    "another device": lambda x: x.to("meta"),
    "a sparse one": lambda x: x.to_sparse(),
}
PLANS: dict[str, Break] = {
    **{name: broken for name, broken in MASKS.items() if name in ("an exception", "a system exit", "None")},
    **{
        f"rows: {name}": lambda plan, broken=broken: Plan(broken(plan.rows))  # type: ignore[misc]
        for name, broken in MASKS.items()
        if not name.startswith(("an ", "a system", "a canc", "a stop", "no memory"))
    },
    "visible of numbers": lambda plan: Plan(plan.rows, visible=plan.rows.float()),
    "rest of the wrong shape": lambda plan: Plan(plan.rows, skip_unconditional=plan.rows),
    "commits of numbers": lambda plan: Plan(plan.rows, commits=plan.rows.long()),
    "commits of one row": lambda plan: Plan(plan.rows, commits=plan.rows[0]),
    "budget of booleans": lambda plan: Plan(plan.rows, budget=plan.rows[:, 0]),
    "a text as rules": lambda plan: Plan(plan.rows, rules="dense"),  # type: ignore[arg-type]
}
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"cache": "dkv-decode", "cfg_scale": 0.0},
    {"cache": "dkv-greedy", "decoder": "random"},
    {"cache": "none", "decoder": "threshold:tau=0.5", "temperature": 0.7},
    {"cache": "dpad", "decoder": "credit"},
)


def neighbours(lm: dkv.DiffusionLM, **more: Any) -> list[dkv.Request]:
    """One request of each kind of NEIGHBOURS."""
    return [
        lm.request([7, n], gen_length=8, seed=n, stop_at_eos=False, **{**o, **more}) for n, o in enumerate(NEIGHBOURS)
    ]


@cache
def expected(lm: dkv.DiffusionLM, **more: Any) -> list[Generation]:
    """What each of them gets alone: the same in every test, so that it is computed once."""
    return [alone(lm, request) for request in neighbours(lm, **more)]


def beside(lm: dkv.DiffusionLM, *bad: dkv.Request, guided: bool = False, **limits: Any) -> dict[int, Exception]:
    """Run requests among neighbours of every kind, some of which join while they are under way: the errors by place.
    Every neighbour gets what it gets alone."""
    more: dict[str, Any] = {"block_length": 4, "trace": True, **({"cfg_scale": 0.5} if guided else {})}
    good = neighbours(lm, **more)
    engine = dkv.Engine(lm, active=len(bad) + len(good) - 1, **limits)
    order = [good[0], *bad, *good[1:]]
    tickets = [engine.add(request) for request in order]
    errors, results = ended(engine)
    for ticket, generation in zip((tickets[0], *tickets[1 + len(bad) :]), expected(lm, **more), strict=True):
        assert same(results[ticket], generation)
    again = engine.add(good[0])
    assert same(ended_more(engine)[again], expected(lm, **more)[0])
    return {place: errors[1 + place] for place in range(len(bad)) if 1 + place in errors}


def ended_more(engine: dkv.Engine) -> dict[int, dkv.Generation]:
    found: dict[int, dkv.Generation] = {}
    while updates := engine.step():
        found |= {u.request_id: u.generation for u in updates if u.generation is not None}
    return found


def asked(lm: dkv.DiffusionLM, prompt: list[int] | None = None, **options: Any) -> dkv.Request:
    return lm.request(prompt or [5, 6, 7], gen_length=8, seed=3, stop_at_eos=False, **options)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none_drops_its_request_alone(lm: dkv.DiffusionLM, name: str) -> None:
    """At its first forward, and later."""
    errors = beside(lm, *(asked(lm, cache=Policy(PLANS[name], at)) for at in (0, 3)))
    assert len(errors) == 2
    for error in errors.values():
        assert isinstance(error, dkv.RequestError)
        assert str(error).startswith("cache='theirs'")
        assert "\n" not in str(error)


@pytest.mark.parametrize("verbs", [("commit_order", "query"), ("update_state", "commit")], ids="-".join)
@pytest.mark.parametrize("name", MASKS)
def test_an_answer_that_is_none_drops_its_request_alone(lm: dkv.DiffusionLM, name: str, verbs: tuple[str, str]) -> None:
    bad = [asked(lm, decoder=Rule(MASKS[name], verb, 0 if verb == "commit_order" else 2)) for verb in verbs]
    errors = beside(lm, *bad)
    assert len(errors) == 2
    for error in errors.values():
        assert isinstance(error, dkv.RequestError)
        assert "\n" not in str(error)
        assert "boom" not in error.public


@pytest.mark.parametrize("verb", ["plan", "query", "commit"])
def test_with_guides_too(lm: dkv.DiffusionLM, verb: str) -> None:
    broken = MASKS["an exception"]
    options = {"cache": Policy(broken, 2)} if verb == "plan" else {"decoder": Rule(broken, verb, 2)}
    assert list(beside(lm, asked(lm, cfg_scale=0.5, **options), guided=True)) == [0]


@pytest.mark.parametrize("verb", ["plan", "query", "commit"])
def test_of_two_that_share_a_policy_the_one_at_fault_goes(lm: dkv.DiffusionLM, verb: str) -> None:
    """It breaks where a prompt begins with 9; and an equal policy beside it does not."""

    class Picky:
        def __init__(self, verb: str) -> None:
            self.verb = verb

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        def look(self, step: Step, verb: str) -> None:
            if verb == self.verb and bool((step.canvas.tokens[:, 0] == 9).any()):
                raise ValueError("nine")

    class Plans(Picky):
        def plan(self, step: Step) -> Plan:
            self.look(step, "plan")
            return Plan(step.canvas.live)

    class Decides(Picky, ReadsBlock):
        adaptive: ClassVar[bool] = False

        def query(self, step: Step) -> Tensor:
            self.look(step, "query")
            return super().query(step)

        def commit(self, step: Step, read: Predictions) -> Tensor:
            self.look(step, "commit")
            return most(read, read.confidence, step.num_transfer_tokens)

    both = [[1, 2], [9, 2], [3, 4]]
    bad = [asked(lm, prompt, cache=Plans(verb), decoder=Decides(verb)) for prompt in both]
    engine = dkv.Engine(lm)
    tickets = [engine.add(request) for request in (*bad, asked(lm, [9, 9], cache="none"))]
    errors, results = ended(engine)
    assert list(errors) == [tickets[1]]
    for ticket, request in ((tickets[0], bad[0]), (tickets[2], bad[2]), (tickets[3], asked(lm, [9, 9], cache="none"))):
        assert same(results[ticket], alone(lm, request))


def test_a_policy_that_writes_on_what_it_sees_changes_nothing_for_others(lm: dkv.DiffusionLM) -> None:
    def vandal(step: Step) -> None:
        for value in (*vars(step).values(), *vars(step.canvas).values()):
            if isinstance(value, Tensor):
                value.zero_()

    class Plans:
        def plan(self, step: Step) -> Plan:
            live = step.canvas.live.clone()
            vandal(step)
            return Plan(live)

    class Decides(ReadsBlock):
        adaptive: ClassVar[bool] = False

        def query(self, step: Step) -> Tensor:
            wanted = super().query(step).clone()
            vandal(step)
            return wanted

        def commit(self, step: Step, read: Predictions) -> Tensor:
            chosen = most(read, read.confidence, step.num_transfer_tokens)
            vandal(step)
            read.raw.zero_()
            read.logits.fill_(torch.nan)
            read.token.zero_()
            read.confidence.fill_(torch.nan)
            return chosen

    request = asked(lm, cache=Plans(), decoder=Decides())
    assert beside(lm, request) == {}
    engine = dkv.Engine(lm)
    engine.add(request)
    assert same(ended(engine)[1][0], alone(lm, asked(lm, cache="none", decoder="confidence")))


@pytest.mark.parametrize("verb", ["plan", "commit"])
def test_a_loop_without_end_is_interrupted(lm: dkv.DiffusionLM, verb: str) -> None:
    options = {"cache": Policy(looping, 2)} if verb == "plan" else {"decoder": Rule(looping, "commit", 2)}
    error = beside(lm, asked(lm, **options), patience=0.3)[0]
    assert "took longer than it may" in str(error)


def test_a_loop_that_catches_everything_is_interrupted_again() -> None:
    met: list[BaseException] = []

    def stubborn() -> None:
        while len(met) < 2:
            try:
                while True:
                    pass
            except BaseException as error:
                met.append(error)

    with contextlib.suppress(OvertimeError):
        bounded(stubborn, 0.05)
    assert len(met) == 2


def test_a_call_in_time_is_left_alone() -> None:
    assert [bounded(lambda n=n: n, 5.0) for n in range(50)] == list(range(50))  # type: ignore[misc]
    assert bounded(lambda: 3, None) == 3


def test_a_decoder_that_never_decides_gives_no_mask_ids(lm: dkv.DiffusionLM) -> None:
    error = beside(lm, asked(lm, decoder=Rule(torch.zeros_like, "commit", 7)))[0]
    assert "undecided" in str(error)


@pytest.mark.parametrize(
    "attribute", [{"adaptive": "yes"}, {"state_size": -1}, {"state_size": 1 << 40}, {"state_size": "two"}]
)
def test_attributes_that_are_none_are_refused_at_once(lm: dkv.DiffusionLM, attribute: dict[str, Any]) -> None:
    kind = type("Odd", (Rule,), attribute)
    engine = dkv.Engine(lm)
    with pytest.raises(dkv.RequestError, match="theirs"):
        engine.add(asked(lm, decoder=kind()))
    assert engine.status().waiting == 0


def test_rules_that_raise_or_cannot_be_hashed_are_refused_at_once(lm: dkv.DiffusionLM) -> None:
    class Plans(Policy):
        @property
        def rules(self) -> Any:
            raise KeyError("rules")

    with pytest.raises(dkv.RequestError, match="KeyError"):
        dkv.Engine(lm).add(asked(lm, cache=Plans()))


class Layer:
    """A dense layer that keeps a buffer; `buffers` and equality may break."""

    def __init__(self, broken: str, how: Break, at: int = 0) -> None:
        self.broken, self.how, self.at, self.asked = broken, how, at, 0

    def _may(self, verb: str, value: Any) -> Any:
        self.asked += verb == self.broken
        return self.how(value) if verb == self.broken and self.asked > self.at else value

    @property
    def buffers(self) -> tuple[str, ...]:
        return self._may("buffers", ("theirs",))  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        return self._may("eq", isinstance(other, Layer))  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return 7

    def projected(self, carried: int, picked: int) -> int:
        return carried

    def __call__(self, block: Any, x: Tensor, at: Any, turn: Any, memory: Any) -> Tensor:
        x = x + block.mix(block.norm(x, block.attn_norm), at, turn, memory)
        return x + block.mlp(x)  # type: ignore[no-any-return]


class Layered(Policy):
    def __init__(self, rule: Layer) -> None:
        super().__init__()
        object.__setattr__(self, "rules", Rules(None, rule))

    def plan(self, step: Step) -> Plan:
        live = step.canvas.live
        return Plan(live, rules=self.rules, forced=live)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["buffers", "eq"])
@pytest.mark.parametrize("at", [0, 1, 2, 5])
@pytest.mark.parametrize("how", ["an exception", "a system exit", "None", "a loop"])
def test_a_layer_rule_that_breaks_when_asked_about_itself_harms_nobody_else(
    lm: dkv.DiffusionLM, verb: str, at: int, how: str
) -> None:
    broken = looping if how == "a loop" else MASKS[how]
    pair = [asked(lm, cache=Layered(Layer(verb, broken, at))) for _ in range(2)]
    good = neighbours(lm)
    engine = dkv.Engine(lm, patience=0.2)
    tickets: list[int] = []
    for place, request in enumerate((good[0], pair[0], *good[1:3], pair[1], good[3])):
        if place in (1, 4):
            with contextlib.suppress(dkv.RequestError):
                engine.add(request)
        else:
            tickets.append(engine.add(request))
    _, results = ended(engine)
    for ticket, generation in zip(tickets, expected(lm), strict=True):
        assert same(results[ticket], generation)


@pytest.mark.parametrize("names", [["list"], ("a", 3), tuple(map(str, range(17))), "text"])
def test_buffers_that_are_none_are_refused_at_once(lm: dkv.DiffusionLM, names: Any) -> None:
    with pytest.raises(dkv.RequestError, match="the buffers of a layer rule"):
        dkv.Engine(lm).add(asked(lm, cache=Layered(Layer("buffers", lambda _: names))))


@pytest.mark.parametrize("key", ["cache", "decoder"])
@pytest.mark.parametrize("how", ["an exception", "a system exit", "None", "a loop"])
def test_an_equality_that_breaks_harms_nobody_else(lm: dkv.DiffusionLM, key: str, how: str) -> None:
    broken = looping if how == "a loop" else MASKS[how]

    class Odd:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return broken(True)  # type: ignore[no-any-return]

    kinds = {"cache": Policy, "decoder": Rule}
    kind = type("Theirs", (Odd, kinds[key]), {})
    engine = dkv.Engine(lm, patience=0.2)
    good = neighbours(lm)
    tickets = [engine.add(one) for one in good[:2]]
    engine.add(asked(lm, **{key: kind()}))
    with contextlib.suppress(dkv.RequestError):
        engine.add(asked(lm, **{key: kind()}))
    tickets += [engine.add(one) for one in good[2:]]
    errors, results = ended(engine)
    assert errors == {}
    for ticket, generation in zip(tickets, expected(lm), strict=True):
        assert same(results[ticket], generation)


def test_what_a_plan_fixes_stays_where_another_one_of_the_policy_fails(lm: dkv.DiffusionLM) -> None:
    class Fixes(Policy):
        def plan(self, step: Step) -> Plan:
            if bool((step.canvas.tokens[:, 0] == 9).any()):
                raise ValueError("nine")
            return Plan(step.canvas.live, commits=step.masked)

    policy = Fixes()
    good, bad = asked(lm, [1, 2], cache=policy), asked(lm, [9, 2], cache=policy)
    engine = dkv.Engine(lm)
    tickets = [engine.add(good), engine.add(bad)]
    errors, results = ended(engine)
    assert list(errors) == tickets[1:]
    assert same(results[tickets[0]], alone(lm, good))


def test_lm_generate_names_the_policy(lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.RequestError, match=r"^cache='theirs': plan failed \(ValueError: boom and more\)$"):
        lm.generate([[1], [2]], gen_length=8, cache=Policy(MASKS["an exception"], 3))
    with pytest.raises(dkv.RequestError, match="decoder='theirs': commit"):
        list(lm.stream([1], gen_length=8, decoder=Rule(MASKS["an exception"], "commit", 3)))


class Failing:
    """A model whose forward fails while a token is carried, as `error` says, `often` at most."""

    def __init__(self, inner: Any, error: Exception, token: int, often: int = 1 << 30) -> None:
        self.inner, self.error, self.token, self.often = inner, error, token, often

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(self, tokens: Tensor, *more: Any) -> Tensor:
        hidden: Tensor = self.inner.forward(tokens, *more)  # what it writes is written
        if self.often and bool((tokens == self.token).any()):
            self.often -= 1
            raise self.error
        return hidden


def failing(lm: dkv.DiffusionLM, error: Exception, token: int, often: int = 1 << 30) -> dkv.DiffusionLM:
    model: Any = Failing(lm.model, error, token, often)
    return dkv.DiffusionLM(model, lm.tokenizer, lm.name, lm.audit, lm.directory)


ERRORS = [RuntimeError("kernel"), MemoryError("none"), torch.OutOfMemoryError("CUDA out of memory")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("cache", ["none", "dkv-decode", "dllm-cache:kp=4,kr=2", "dkv-fill"])
def test_a_forward_that_fails_drops_whoever_makes_it_fail(lm: dkv.DiffusionLM, cache: str, error: Exception) -> None:
    engine = dkv.Engine(failing(lm, error, 201), active=5)
    requests = [
        lm.request(
            prompt, gen_length=8, block_length=4, cache=cache, seed=n, stop_at_eos=False, trace=True, frames=True
        )
        for n, prompt in enumerate(([1, 2], [3], [4, 201], [5, 6, 7], [8], [9, 9]))
    ]
    for request in requests:
        engine.add(request)
    errors, results = ended(engine)
    assert list(errors) == [2]
    assert all(same(results[n], alone(lm, r)) for n, r in enumerate(requests) if n != 2)


@pytest.mark.parametrize("cache", ["none", "dllm-cache:kp=4,kr=2,cfg_interval=2"])
@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_nothing_is_told_twice_to_those_that_begin_again(lm: dkv.DiffusionLM, cache: str, scale: float) -> None:
    """The request at fault comes when the others are on their way."""
    broken = failing(lm, ERRORS[0], 201)
    engine = dkv.Engine(broken)
    options: dict[str, Any] = {"cache": cache, "cfg_scale": scale, "stop_at_eos": False, "block_length": 4}
    requests = [lm.request([n], gen_length=12, seed=n, frames=True, **options) for n in (1, 2)]
    plain = dkv.Engine(lm)
    expected: dict[int, list[Any]] = {0: [], 1: []}
    for request in requests:
        plain.add(request)
        engine.add(request)
    told: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for number, where, into in ((0, plain, expected), (1, engine, told)):
        for step in range(40):
            if number and step == 5:
                engine.add(lm.request([201], gen_length=12, **options))
            for update in where.step():
                if update.has_output:
                    into[update.request_id].append(update)
    assert isinstance(told[2][-1].error, dkv.RequestError)
    for ticket in (0, 1):
        for what in ("ids", "text"):
            assert [getattr(u, what) for u in told[ticket] if getattr(u, what)] == [
                getattr(u, what) for u in expected[ticket] if getattr(u, what)
            ]
        frames = [[u.frame for u in updates if u.frame] for updates in (told[ticket], expected[ticket])]
        assert frames[0] == frames[1]
        assert same(told[ticket][-1].generation, expected[ticket][-1].generation)


@pytest.mark.parametrize("cache", ["none", "dllm-cache:kp=4,kr=2"])
def test_a_forward_that_failed_once_for_nothing_is_made_up_for(lm: dkv.DiffusionLM, cache: str) -> None:
    engine = dkv.Engine(failing(lm, ERRORS[1], 1, often=1))
    requests = [lm.request([1, n], gen_length=8, cache=cache, seed=n, stop_at_eos=False) for n in range(3)]
    for request in requests:
        engine.add(request)
    errors, results = ended(engine)
    assert len(errors) == (cache != "none")  # what looks at its slots cannot be tried again, and could fail for ever
    assert all(same(results[n], alone(lm, requests[n])) for n in results)


def test_without_memory_the_longest_goes_first(lm: dkv.DiffusionLM) -> None:
    """Two of three fit: one has to go, not all of them."""

    class Full(Failing):
        def forward(self, tokens: Tensor, *more: Any) -> Tensor:
            if len(self.engine.batches and next(iter(self.engine.batches.values())).sequences) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(tokens, *more)

    model: Any = Full(lm.model, ERRORS[2], 0)
    engine = dkv.Engine(dkv.DiffusionLM(model, lm.tokenizer, lm.name, lm.audit, lm.directory))
    model.engine = engine
    requests = [lm.request([1] * n, gen_length=8, cache="none", stop_at_eos=False) for n in (2, 9, 3)]
    for request in requests:
        engine.add(request)
    errors, results = ended(engine)
    assert list(errors) == [1]
    assert all(same(results[n], alone(lm, requests[n])) for n in (0, 2))


@pytest.mark.parametrize("late", [False, True])
def test_without_memory_for_a_newcomer_the_others_go_on(lm: dkv.DiffusionLM, late: bool) -> None:
    """late: the old buffers are half moved when the new ones fail."""

    class Small(Failing):
        def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> Any:
            memory = self.inner.new_kv_cache(batch, width, dtype)
            if width > 40 and not late:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if width > 40:
                memory.layers[-1].buffers["v"] = Nothing()
            return memory

    class Nothing:
        shape = (0, 1, 1, 1)

        def new_zeros(self, *_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model: Any = Small(lm.model, ERRORS[2], 0)
    engine = dkv.Engine(dkv.DiffusionLM(model, lm.tokenizer, lm.name, lm.audit, lm.directory))
    requests = [lm.request([n], gen_length=8, cache="dkv-decode", stop_at_eos=False, trace=True) for n in (1, 2)]
    for request in requests:
        engine.add(request)
    for _ in range(3):
        engine.step()
    engine.add(lm.request([1] * 50, gen_length=8, cache="dkv-decode"))
    errors, results = ended(engine)
    assert list(errors) == [2]
    assert all(same(results[n], alone(lm, requests[n])) for n in (0, 1))


def test_a_tokenizer_that_cannot_decode_an_answer_drops_that_one(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None

    class Breaks:
        def __getattr__(self, name: str) -> Any:
            return getattr(lm.tokenizer, name)

        def decode(self, ids: list[int], **more: Any) -> str:
            assert lm.tokenizer is not None
            if len(ids) > 4:
                raise BaseException("panic")  # as a library in Rust does
            return lm.tokenizer.decode(ids, **more)

    tokenizer: Any = Breaks()
    other = dkv.DiffusionLM(lm.model, tokenizer, lm.name, lm.audit, lm.directory)
    engine = dkv.Engine(other)
    for length in (8, 4):
        engine.add(other.request([1], gen_length=length, stop_at_eos=False))
    errors, results = ended(engine)
    assert (list(errors), list(results)) == ([0], [1])


def test_token_ids_that_the_model_does_not_have_are_refused(lm: dkv.DiffusionLM) -> None:
    request = asked(lm)
    for token in (-1, lm.model.config.vocab, 1 << 70):
        with pytest.raises(dkv.PromptError, match="token id"):
            dkv.Engine(lm).add(replace(request, prompt=(1, token)))


def test_a_seed_that_no_tensor_holds_drops_its_request_alone(lm: dkv.DiffusionLM) -> None:
    assert list(beside(lm, replace(asked(lm), seed=1 << 70))) == [0]


def test_a_service_streams_on_beside_what_fails(lm: dkv.DiffusionLM) -> None:
    good = [lm.request([n], gen_length=12, seed=n, cache="dkv-decode", stop_at_eos=False) for n in range(3)]
    bad = [
        asked(lm, cache=Policy(broken, at)) for broken in (MASKS["a system exit"], MASKS["None"]) for at in (0, 2)
    ] + [asked(lm, cache=Policy(raising(KeyboardInterrupt()), 1))]

    async def main() -> None:
        async with dkv.Service(dkv.Engine(lm)) as service:

            async def listen(request: dkv.Request) -> Any:
                text, result = "", None
                async for update in service.stream(request):
                    text, result = text + update.text, update.generation
                return text, result

            work = asyncio.gather(*map(listen, [*good, *bad]), return_exceptions=True)
            found: list[Any] = await asyncio.wait_for(work, 60)
            for request, (text, result) in zip(good, found, strict=False):
                assert same(result, alone(lm, request))
                assert text == result.text
            assert all(isinstance(error, dkv.RequestError) for error in found[len(good) :])
            assert service.failed is None
            assert same(await service.generate(good[0]), alone(lm, good[0]))
            while service.status().active:
                await asyncio.sleep(0.01)
            assert service.status().memory_used == 0

    asyncio.run(main())
