"""The examination: one pass beside no cache, one free run of each cache, one timing; then the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from dkv.caches import make_cache
from dkv.caches.none import NoCache
from dkv.core.policy import CachePolicy
from dkv.errors import SettingError
from dkv.lab.common.agreement import agreement
from dkv.lab.doctor.cache_errors import Errors
from dkv.lab.doctor.findings import Evidence, Finding, findings_of
from dkv.lab.doctor.timing import cost_of, time_steps
from dkv.lab.study.side_by_side import Lockstep, Prompts
from dkv.lm import DiffusionLM
from dkv.outputs import Generation

__all__ = ["Diagnosis", "ExamineOptions", "examine", "variants_of"]

Tell = Callable[[str], None]

_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
_FIRST_REFRESH = 8
"""What a refresh of 0, which is none, is changed to."""


@dataclass(frozen=True)
class ExamineOptions:
    """How to generate; as the arguments of `generate`, at temperature 0."""

    gen_length: int = 64
    block_length: int | None = None
    steps: int | None = None
    decoder: str | None = None
    chat: bool | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Of one cache: its spec, and what was found."""

    cache: str
    findings: tuple[Finding, ...]


def examine(
    lm: DiffusionLM, given: Sequence[Any], specs: Sequence[str], asked: ExamineOptions, tell: Tell = lambda note: None
) -> list[Diagnosis]:
    """What is found of each cache on the prompts given.

    Raises SettingError, SpecError and PromptError as `generate` does, and SettingError for the cache "none".
    """
    policies = [_policy(spec) for spec in specs]
    tell("generating with each cache")
    free = [_generate(lm, given, policy, asked) for policy in policies]
    prompts = _prompts(free[0])
    variants = [variants_of(policy) for policy in policies]
    tell(f"stepping beside no cache: {sum(map(len, variants)) + len(policies)} settings, {len(given)} prompts")
    none, errors = _beside(lm, prompts, [p for own, more in zip(policies, variants, strict=True)
                                         for p in (own, *more.values())])  # fmt: skip
    tell("timing steps")
    baseline, *timed = time_steps(lm, prompts, [NoCache(), *policies])
    found, first = [], 0
    for spec, policy, more, own, steps in zip(specs, policies, variants, free, timed, strict=True):
        mine = errors[first : first + 1 + len(more)]
        first += 1 + len(more)
        evidence = Evidence(
            policy=policy,
            lengths=[len(ids) for ids in prompts.ids],
            errors=mine[0],
            variants=dict(zip(more, mine[1:], strict=True)),
            agreement=[agreement(a, b) for a, b in zip(own, none, strict=True)],
            fresh=_fresh(lm, given, policy, asked, none),
            cost=cost_of(baseline, steps),
            batch=len(given),
            steps=prompts.settings.steps,
            parallel=prompts.settings.decoder.adaptive,
        )
        found.append(Diagnosis(spec, tuple(findings_of(evidence))))
    return found


def _policy(spec: str) -> CachePolicy:
    policy = make_cache(spec)
    if isinstance(policy, NoCache):
        raise SettingError(f"cache={spec!r} has no trouble of a cache; give another, such as dkv-decode")
    return policy


def _generate(lm: DiffusionLM, given: Sequence[Any], policy: CachePolicy, asked: ExamineOptions) -> list[Generation]:
    return lm.generate(
        list(given),
        gen_length=asked.gen_length,
        block_length=asked.block_length,
        steps=asked.steps,
        decoder=asked.decoder,
        chat=asked.chat,
        seed=0,
        cache=policy,
    )


def _prompts(done: Sequence[Generation]) -> Prompts:
    """The ids and settings that `generate` checked."""
    return Prompts([g.prompt_ids for g in done], [g.seed for g in done], done[0].settings)


def _beside(
    lm: DiffusionLM, prompts: Prompts, policies: Sequence[CachePolicy]
) -> tuple[list[Generation], list[Errors]]:
    """What no cache generates, and the errors of each policy beside it."""
    lockstep = Lockstep(lm, prompts, policies)
    errors = [Errors(lockstep.stop_ids) for _ in policies]
    for step in lockstep.steps():
        errors[step.number].add(step)
    return lockstep.results(), errors


def _fresh(
    lm: DiffusionLM, given: Sequence[Any], policy: CachePolicy, asked: ExamineOptions, none: Sequence[Generation]
) -> list[float] | None:
    """Agreement of each prompt where the prompt is computed at every step; None for a cache without `kp`."""
    if getattr(policy, "kp", None) is None:
        return None
    fresh = _generate(lm, given, replace(policy, kp=1), asked)  # type: ignore[type-var]
    return [agreement(a, b) for a, b in zip(fresh, none, strict=True)]


def variants_of(policy: CachePolicy) -> dict[str, CachePolicy]:
    """Changed policies by the setting that makes each, such as "kr=3": of the keys that the papers name, those that
    this cache has. Empty for a cache without keys, or where each is as careful as can be."""
    if not is_dataclass(policy) or isinstance(policy, type):
        return {}
    values = {field.name: getattr(policy, field.name) for field in fields(policy) if field.init}
    steps = {key: step for key, value in values.items() if (step := _step(key, value)) is not None}
    return {f"{key}={value:g}": replace(policy, **{key: value}) for key, value in steps.items()}


def _step(key: str, value: object) -> float | None:
    """The value one step more careful; None where there is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    match key:
        case "delay":
            return value + 1
        case "refresh" | "kr" if value > 1:
            return int(value // 2)
        case "refresh" if value == 0:
            return _FIRST_REFRESH
        case "window":
            return max(2 * value, 4)
        case "kp" if value > 1:
            return 1
        case "rho" if value < 1:
            return next(share for share in _SHARES if share > max(value, 0))
    return None
