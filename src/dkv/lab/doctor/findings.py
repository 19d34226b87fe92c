"""From what was measured to findings: the failures that the papers name, one function each, and their thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from dkv.core.policy import CachePolicy
from dkv.lab.doctor.cache_errors import Errors
from dkv.lab.doctor.timing import Cost
from dkv.lab.eval.statistics import Share

__all__ = ["AGREEMENT", "FLIPS", "STATUSES", "Evidence", "Finding", "FindingThreshold", "findings_of"]

STATUSES = ("fine", "watch", "trouble")


@dataclass(frozen=True)
class Finding:
    """One section of a diagnosis."""

    name: str
    status: str  # of `STATUSES`
    measured: str  # a sentence with its n
    advice: str  # what to try
    figures: Mapping[str, Any] = field(default_factory=dict)  # the numbers behind it, as JSON values


@dataclass(frozen=True)
class FindingThreshold:
    """From `watch` and from `trouble` on, in one direction: upwards, or downwards where trouble is the lower."""

    watch: float
    trouble: float
    reason: str

    def status(self, value: float) -> str:
        """Of a value. NaN is fine: nothing was measured."""
        sign = 1 if self.trouble > self.watch else -1
        return STATUSES[(sign * value >= sign * self.watch) + (sign * value >= sign * self.trouble)]


SETTLED = FindingThreshold(
    0.01, 0.05, "1 - cosine; a token moves about 0.3 when it is decoded, so these are a thirtieth and a sixth of that"
)
FLIPS = FindingThreshold(
    0.005, 0.02, "of a text's tokens; errors go on from each, and at one in 50 about half of all texts of 35 have one"
)
AGREEMENT = FindingThreshold(
    0.98, 0.9, "share of tokens equal to no cache's; below, answers differ and not only wording"
)
LAYER = FindingThreshold(0.02, 0.1, "1 - cosine in the worst layer, whose error all layers above it inherit")
PROMPT = FindingThreshold(0.01, 0.05, "1 - cosine, as for decoded tokens: attention reads both alike")
OVERHEAD = FindingThreshold(0.3, 0.5, "share of a step; from a half on, fewer rows can no longer double the speed")

_LARGEST_BATCH = 1024
"""What would need more prompts than this is no advice."""


@dataclass(frozen=True)
class Evidence:
    """All that was measured of one cache."""

    policy: CachePolicy
    lengths: list[int]  # tokens of each prompt
    errors: Errors
    variants: dict[str, Errors]  # by the setting that makes each variant
    agreement: list[float]  # with no cache, by prompt
    fresh: list[float] | None  # the same with kp=1
    cost: Cost
    batch: int  # prompts at a time
    steps: int  # of a generation
    parallel: bool = False  # the decoder commits several tokens a step

    def variant(self, *keys: str) -> dict[str, Errors]:
        """The variants of some keys."""
        return {name: errors for name, errors in self.variants.items() if name.partition("=")[0] in keys}


def findings_of(evidence: Evidence) -> list[Finding]:
    """The five findings, in the order in which they are explained in docs/doctor.md."""
    return [rule(evidence) for rule in (_settling, _quality, _overhead, _layers, _prompt)]


def _settling(e: Evidence) -> Finding:
    """Are keys and values still moving when they are stored?"""
    found = e.errors.mean("decoded")
    if not found:
        return Finding("settling", "fine", "no token was decided before the last step (n=0)", "none")
    value = mean(found)
    others = {n: mean(v.mean("decoded")) for n, v in e.variant("delay", "refresh", "kr", "rho").items()}
    status = SETTLED.status(value)
    measured = (
        f"decided tokens' keys and values, as attention reads them, are {value:.2g} (1 - cosine, mean over layers) "
        f"from those without a cache, n={e.errors.counts['decoded']} (token, step) pairs"
        + "".join(f"; with {name} {error:.2g}" for name, error in others.items())
    )
    advice = "none" if status == "fine" else _lowest(others, value, "compute them more often with another cache")
    return Finding("settling", status, measured, advice, {"error": value, "variants": others})


def _quality(e: Evidence) -> Finding:
    """Does the cache change what is said?"""
    own = e.errors
    if not own.decided:
        return Finding("quality", "watch", "no cache writes no text here (n=0 tokens)", "give other prompts")
    variants = {name: v for name, v in e.variants.items() if not name.startswith("kp")}
    others = {name: {"flips": v.flipped / max(v.decided, 1), "kl": v.kl} for name, v in variants.items()}
    agreed, flips = mean(e.agreement), own.flipped / own.decided
    status = _worse(FLIPS.status(flips), AGREEMENT.status(agreed))
    tried = "".join(f"; {name}: {_share(v)}, KL {v.kl:.2g}" for name, v in variants.items())
    measured = (
        f"on the same canvas another token would be chosen for {_share(own)} tokens of text, mean KL {own.kl:.2g} nats "
        f"over n={own.rows} rows read{tried}; left to itself {agreed:.1%} of the tokens agree with no cache, "
        f"n={len(e.agreement)} prompts"
    )
    advice = "none" if status == "fine" else _helping(others, (flips, own.kl))
    figures = {"flips": flips, "kl": own.kl, "agreement": agreed, "variants": others}
    return Finding("quality", status, measured, advice, figures)


def _overhead(e: Evidence) -> Finding:
    """Does computing fewer rows save time?"""
    c = e.cost
    status = OVERHEAD.status(c.overhead)
    if c.speedup < 1 < c.allowed:
        status = "trouble"
    measured = (
        f"a step takes {1e3 * c.seconds:.3g} ms for {c.rows:.0f} rows, without a cache {1e3 * c.none_seconds:.3g} ms "
        f"for {c.none_rows:.0f}: {c.speedup:.2f} times as fast, where the rows would allow {c.allowed:.2f}; fixed "
        f"{1e3 * c.fixed:.3g} ms ({c.overhead:.0%} of the step), {1e6 * c.per_row:.3g} us a row, fitted to "
        f"n={c.steps} steps"
    )
    figures = {name: getattr(c, name) for name in ("overhead", "speedup", "allowed", "fixed", "per_row", "steps")}
    return Finding("overhead", status, measured, "none" if status == "fine" else _spend(e), figures)


def _layers(e: Evidence) -> Finding:
    """Is one layer far worse off than the others?"""
    kind = "features" if e.errors.counts.get("features") else "decoded"
    found = e.errors.mean(kind)
    if not found:
        return Finding("layers", "fine", "nothing was read from the cache (n=0)", "none")
    worst = max(range(len(found)), key=lambda layer: found[layer])
    typical, what = median(found), "attention plus FFN outputs" if kind == "features" else "keys and values"
    status = LAYER.status(found[worst])
    times = f", {found[worst] / typical:.1f} times the median layer's" if typical else ""
    measured = (
        f"cached {what} of the response are farthest from no cache's in layer {worst}: {found[worst]:.2g} "
        f"(1 - cosine){times}; by layer {', '.join(f'{error:.2g}' for error in found)}, "
        f"n={e.errors.counts[kind]} (position, step) pairs"
    )
    advice = "none" if status == "fine" else _for_layer(e, worst, kind)
    return Finding("layers", status, measured, advice, {"worst": worst, "errors": found, "kind": kind})


def _prompt(e: Evidence) -> Finding:
    """Do long prompts suffer, because they are computed rarely?"""
    found = e.errors.mean("prompt")
    value = mean(found)
    longest = sorted(range(len(e.lengths)), key=lambda i: -e.lengths[i])[: max(1, len(e.lengths) // 3)]
    ages = {f"{low}+": total / count for low, (total, count) in sorted(e.errors.ages.items())}
    aged = ", ".join(f"{age} {error:.2g}" for age, error in ages.items()) or "computed at every step"
    measured = (
        f"the prompt's keys and values are {value:.2g} (1 - cosine, mean over layers) from those without a cache, "
        f"n={e.errors.counts['prompt']} (token, step) pairs; by steps since computed: {aged}"
    )
    status, figures = PROMPT.status(value), {"error": value, "ages": ages}
    if e.fresh is not None:
        own, fresh = (mean(values[i] for i in longest) for values in (e.agreement, e.fresh))
        figures |= {"agreement": own, "fresh": fresh, "prompts": len(longest)}
        measured += (
            f"; on the longest prompts ({min(e.lengths[i] for i in longest)} tokens and more, n={len(longest)}) "
            f"{own:.1%} of the tokens agree with no cache, and {fresh:.1%} with kp=1"
        )
        # what kp costs is held to the same distances as agreement is from 1
        status = _worse(status, AGREEMENT.status(1 - max(fresh - own, 0.0)))
    return Finding("prompt", status, measured, "none" if status == "fine" else _renew(e), figures)


def _worse(*statuses: str) -> str:
    return max(statuses, key=STATUSES.index)


def _share(errors: Errors) -> str:
    return str(Share(errors.flipped, errors.decided)) if errors.decided else "0 of 0"


def _lowest(others: dict[str, float], value: float, otherwise: str) -> str:
    """The setting with the lowest error, if it is lower by a tenth at least."""
    better = {name: error for name, error in others.items() if error <= 0.9 * value}
    if not better:
        return otherwise
    best = min(better, key=lambda name: better[name])
    return f"{best}: lowers it to {better[best]:.2g}"


def _helping(others: dict[str, dict[str, float]], own: tuple[float, float]) -> str:
    """Which setting helps most: by flips, and where these tie by KL, which every row read adds to. own: both."""
    if not others:
        return "this cache has no setting that would help; try shorter blocks, or another cache"
    best = min(others, key=lambda name: (others[name]["flips"], others[name]["kl"]))
    if (others[best]["flips"], others[best]["kl"]) >= own:
        return "none of its settings helps by one step; try another cache"
    rest = [name for name in others if name != best]
    over = f", more than {' or '.join(rest)}" if rest else ""
    return f"{best}: helps most here{over}"


def _spend(e: Evidence) -> str:
    """What saves time where the fixed part of a step is most of it: nothing that computes more rows."""
    c, advice = e.cost, []
    rows = c.fixed * (1 - OVERHEAD.watch) / OVERHEAD.watch
    batch = math.ceil(e.batch * rows / (c.per_row * c.rows)) if c.per_row else _LARGEST_BATCH
    if batch < _LARGEST_BATCH:
        advice.append(f"a larger batch: from about {batch} prompts on (now {e.batch}) the fixed part is below 30%")
    else:
        advice.append(f"a larger batch (now {e.batch}): time hardly grows with rows here")
    if not e.parallel:
        advice.append(
            "decoder=threshold, which commits several tokens a step: fewer steps pay the fixed part less often"
        )
    if c.speedup < 1:
        advice.append("cache=none, which is faster at this size")
    return "; or ".join(advice)


def _for_layer(e: Evidence, worst: int, kind: str) -> str:
    """The setting that lowers the worst layer's error most."""
    own = e.errors.mean(kind)[worst]
    if worst == 0 and getattr(e.policy, "first_layer", True) is False:
        return "first_layer=true: computes layer 0 of every row"
    others = {n: v.mean(kind)[worst] for n, v in e.variants.items() if v.mean(kind) and not n.startswith("kp")}
    return _lowest(
        others, own, "no setting lowers it by one step; a cache that computes the response, such as dkv-prefill"
    )


def _renew(e: Evidence) -> str:
    kp = getattr(e.policy, "kp", None)
    if kp is not None and kp > 1:
        return f"kp={max(min(kp, e.steps) // 2, 1)}, or lower for prompts as long as these"
    others = {n: mean(v.mean("prompt")) for n, v in e.variant("refresh").items()}
    otherwise = "a cache that renews the prompt (dllm-cache with a low kp), or shorter blocks, at which it is renewed"
    return _lowest(others, mean(e.errors.mean("prompt")), otherwise)
