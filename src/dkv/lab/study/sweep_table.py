"""Accuracy studies of dKV-Cache and dLLM-Cache that compare policies: a row of one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dkv.lab.study.accuracy import NONE, Policy, pools_of
from dkv.lab.study.base import Record
from dkv.lab.study.sweep import Compared, Sweep
from dkv.lab.study.verdicts import gained, kept

__all__ = ["SWEEPS"]


def _decode(refresh: int, delay: int | None = None) -> Policy:
    return Policy(f"dkv-decode:refresh={refresh}" + ("" if delay is None else f",delay={delay}"))


def _greedy(refresh: int, window: int = 4, decoder: str | None = None) -> Policy:
    return Policy(f"dkv-greedy:refresh={refresh},window={window}", decoder)


def _dllm(key: str, value: object) -> Policy:
    return Policy(f"dllm-cache:{key}={value}")


def _similar(rho: str, kind: str) -> Policy:
    return Policy(f"dllm-cache:rho={rho},similarity={kind}")


def _dllm_key(
    key: str,
    values: Sequence[object],
    quick: Sequence[object],
    claim: str,
    title: str,
    label: str,
    compared: Mapping[str, Compared],
    sentence: str,
) -> Sweep:
    """One key of dllm-cache, all else as published (kp 50, kr 7, rho 0.25), beside no cache."""
    policies = [_dllm(key, value) for value in values]
    return Sweep(
        name=key,
        claim=claim,
        full=[NONE, *policies],
        quick=[NONE, *(_dllm(key, value) for value in quick)],
        compared=compared,
        sentence=sentence,
        title=title,
        axis="rho" if key == "rho" else f"{key} (steps)",
        categories=["none", *map(str, values)],
        lines={"no cache": [NONE, *[None] * len(values)], f"dllm-cache, {label}": [None, *policies]},
    )


def _largest_safe(records: Sequence[Record]) -> str:
    known = pools_of(records)
    safe = [r for r in _REFRESHES if (p := known.get(_decode(r))) is not None and kept(p.less(known[NONE]))]
    largest = f"up to {max(safe)}" if safe else "of none of those measured"
    return f" That no more than 2 points are lost can be told {largest}."


_RANDOM = Policy("none", "random")
_VARIANTS = {
    "decode, refresh 8": Compared(_decode(8), NONE, kept, 0.02, fewer=True),
    "decode, refresh 4": Compared(_decode(4), NONE, kept, 0.02, fewer=True),
    "prefill": Compared(Policy("dkv-prefill"), NONE, kept, 0.03, fewer=True),
    "pd, refresh 4": Compared(Policy("dkv-pd:refresh=4"), NONE, kept, 0.05, fewer=True),
    "greedy, random order": Compared(_greedy(2, 4, "random"), _RANDOM, kept, 0.05, fewer=True),
}
"""The variants as published, each beside no cache in the same order, with the share of answers that it may lose: about
what it loses on most tasks of its paper."""
_REFRESHES = (2, 4, 8, 16, 32)
_WINDOWS = (0, 2, 4, 8)
_ORDERS = {"the model's own order": None, "random order": "random"}
_ORDERED = ("none", "dkv-decode:refresh=8", "dkv-greedy:refresh=2,window=4")
_NEVER = 1024
"""Beyond any response here: everything is computed at the first step, and not again."""
_COMPONENTS = {
    "no cache": NONE,
    "at once, never refreshed": _decode(_NEVER, 0),
    "at once": _decode(8, 0),
    "delayed, never refreshed": _decode(_NEVER, 1),
    "delayed": _decode(8, 1),
    "compact, never refreshed": _greedy(_NEVER),
    "compact": _greedy(8),
}
_COMPARED = [p for c in _VARIANTS.values() for p in (c.other, c.one)]

SWEEPS = (
    Sweep(
        name="variants",
        claim="dKV-Cache (arXiv 2505.15781): Decode is nearly lossless (LLaDA-8B-Instruct, refresh 8, GSM8K 77.56 to "
        "78.85 at 1.92x; Dream-7B, refresh 4, 76.88 to 76.57 at 2.09x); Prefill and PD trade a little for more speed "
        "(Dream-7B, 75.66 at 3.55x and 74.07 at 3.32x); Greedy in random order trades more (72.25 to 68.23 at 1.63x).",
        full=list(dict.fromkeys(_COMPARED)),
        compared=_VARIANTS,
        sentence="Against no cache in the same order: "
        + "; ".join(f"{name}: {{{name}}}, {{{name}.rows}}" for name in _VARIANTS)
        + ".",
        title="The variants of dKV-Cache",
        axis="",
        categories=list(_VARIANTS),
        lines={
            "no cache, same order": [c.other for c in _VARIANTS.values()],
            "variant": [c.one for c in _VARIANTS.values()],
        },
        style="",
        time="% of no cache",
    ),
    Sweep(
        name="delay",
        claim="Storing a token's keys and values one step after it was decoded, instead of at once, keeps the accuracy "
        "of dKV-Cache-Decode (arXiv 2505.15781, section 3.2; its tables are at delay 1, refresh 8).",
        full=[NONE, *(_decode(refresh, delay) for refresh in (4, 8, 16) for delay in (0, 1, 2))],
        quick=[NONE, *(_decode(refresh, delay) for refresh in (8, 16) for delay in (0, 1))],
        compared={"worth": Compared(_decode(8, 1), _decode(8, 0), gained)},
        sentence="At refresh 8 the delay of one step is worth {worth}.",
        title="dkv-decode: the delay",
        axis="refresh (steps)",
        categories=["4", "8", "16"],
        lines={"no cache": [NONE] * 3, **{f"delay {d}": [_decode(r, d) for r in (4, 8, 16)] for d in (0, 1, 2)}},
    ),
    Sweep(
        name="refresh",
        claim="dKV-Cache-Decode at refresh 8 is almost lossless (arXiv 2505.15781, table 1, LLaDA-8B-Instruct: MMLU "
        "51.11 to 51.00, GSM8K 77.56 to 78.85, MBPP 40.4 to 40.4).",
        full=[NONE, *map(_decode, _REFRESHES)],
        quick=[NONE, *map(_decode, (4, 8, 16))],
        compared={"loss": Compared(_decode(8), NONE, kept)},
        sentence="At refresh 8, against no cache: {loss}.",
        also=_largest_safe,
        title="dkv-decode: the refresh interval",
        axis="refresh (steps)",
        categories=["1 (none)", *map(str, _REFRESHES)],
        lines={"dkv-decode": [NONE, *map(_decode, _REFRESHES)]},
    ),
    Sweep(
        name="window",
        claim="A window of 4 neighbours makes dKV-Cache-Greedy more accurate (arXiv 2505.15781, table 1, "
        "LLaDA-8B-Instruct, random order, refresh 2: MMLU 45.77 to 47.70, GSM8K 67.93 to 68.23, Math500 26.0 to 27.0).",
        full=[_greedy(r, w, d) for d in ("random", None) for r in (2, 8) for w in _WINDOWS],
        quick=[_greedy(r, w, d) for r, d in ((2, "random"), (8, None)) for w in (0, 4)],
        compared={
            "random": Compared(_greedy(2, 4, "random"), _greedy(2, 0, "random"), gained),
            "own": Compared(_greedy(8, 4), _greedy(8, 0)),
        },
        sentence="Window 4 against 0, random order, refresh 2: {random}; the model's own order, refresh 8: {own}.",
        title="dkv-greedy: the window",
        axis="window (masked neighbours)",
        categories=list(map(str, _WINDOWS)),
        lines={
            f"{d or 'own'} order, refresh {r}": [_greedy(r, w, d) for w in _WINDOWS]
            for d in ("random", None)
            for r in (2, 8)
        },
    ),
    Sweep(
        name="order",
        claim="A random order costs accuracy by itself, and dKV-Cache-Greedy, which needs to know the order, loses "
        "little more in it (arXiv 2505.15781, table 1, LLaDA-8B-Instruct, GSM8K: 77.56 by confidence, 72.25 at random, "
        "68.23 at random with greedy).",
        full=[Policy(cache, decoder) for decoder in _ORDERS.values() for cache in _ORDERED],
        compared={
            "worth": Compared(NONE, _RANDOM, gained),
            # The published losses of greedy with a window are 4 on MMLU and GSM8K, and 4.5 on HumanEval.
            "loss": Compared(Policy(_ORDERED[2], "random"), _RANDOM, kept, 0.05),
        },
        sentence="Without a cache the own order is worth {worth}; in random order dkv-greedy against no cache: {loss}.",
        title="The decode order",
        axis="cache",
        categories=[cache.partition(":")[0] for cache in _ORDERED],
        lines={name: [Policy(cache, decoder) for cache in _ORDERED] for name, decoder in _ORDERS.items()},
        style="",
    ),
    _dllm_key(
        "rho",
        values=("0", "0.1", "0.25", "0.5", "0.75", "1"),
        quick=("0", "0.1", "0.25", "0.5", "1"),
        claim="Recomputing about a quarter of the response, the rows whose values drifted most, is enough (dLLM-Cache, "
        "arXiv 2506.06295: rho = 0.25 in all published settings; LLaDA, GSM8K, kp 50, kr 7: 78.54).",
        compared={
            "worth": Compared(_dllm("rho", "0.25"), _dllm("rho", "0"), gained),
            "loss": Compared(_dllm("rho", "0.25"), _dllm("rho", "1"), kept),
            "against": Compared(_dllm("rho", "0.25"), NONE),
        },
        sentence="rho 0.25 against rho 0: {worth}; against rho 1: {loss}; against no cache: {against}.",
        title="dllm-cache: the share recomputed",
        label="kp 50, kr 7",
    ),
    _dllm_key(
        "kp",
        values=(1, 10, 25, 50, 100),
        quick=(1, 10, 50),
        claim="The prompt's features can be kept for tens of steps (dLLM-Cache, arXiv 2506.06295: kp from 25 to 100 in "
        "most published LLaDA settings, 50 in most; HotpotQA F1 34.56 to 36.10 at kp 100, kr 8).",
        compared={"loss": Compared(_dllm("kp", 50), _dllm("kp", 1), kept), "against": Compared(_dllm("kp", 50), NONE)},
        sentence="kp 50 against kp 1: {loss}; against no cache: {against}.",
        title="dllm-cache: how often the prompt is renewed",
        label="kr 7, rho 0.25",
    ),
    _dllm_key(
        "kr",
        values=(1, 2, 4, 7, 10, 20),
        quick=(1, 4, 7, 20),
        claim="The response needs to be renewed only every few steps, given V-verify in between (dLLM-Cache, arXiv "
        "2506.06295: kr from 4 to 8 in most published LLaDA settings; LLaDA-Instruct, GSM8K: kr 7).",
        compared={"loss": Compared(_dllm("kr", 7), _dllm("kr", 1), kept), "against": Compared(_dllm("kr", 7), NONE)},
        sentence="kr 7 against kr 1: {loss}; against no cache: {against}.",
        title="dllm-cache: how often the response is renewed",
        label="kp 50, rho 0.25",
    ),
    Sweep(
        name="similarity",
        claim="Cosine finds the rows that drifted better than distance does (dLLM-Cache, arXiv 2506.06295, LLaDA, "
        "GSM8K: 78.54 with cosine, 55.95 with l2).",
        full=[NONE, *(_similar(share, kind) for share in ("0.1", "0.25") for kind in ("cosine", "l2"))],
        compared={
            "quarter": Compared(_similar("0.25", "cosine"), _similar("0.25", "l2"), gained),
            "tenth": Compared(_similar("0.1", "cosine"), _similar("0.1", "l2")),
        },
        sentence="Cosine against l2 at rho 0.25: {quarter}; at rho 0.1: {tenth}.",
        title="dllm-cache: cosine and l2",
        axis="rho",
        categories=["0.1", "0.25"],
        lines={
            "no cache": [NONE] * 2,
            **{kind: [_similar(share, kind) for share in ("0.1", "0.25")] for kind in ("cosine", "l2")},
        },
        style="",
    ),
    Sweep(
        name="components",
        claim="Each part of dKV-Cache earns its place (arXiv 2505.15781): caching saves work (LLaDA-8B-Instruct, "
        "GSM8K: 1.92 times faster at refresh 8), the delay and the refresh keep the accuracy, the compact subset saves "
        "more work.",
        full=list(_COMPONENTS.values()),
        compared={
            "whole": Compared(_decode(8, 1), NONE, fewer=True),
            "delay": Compared(_decode(8, 1), _decode(8, 0), gained),
            "refresh": Compared(_decode(8, 1), _decode(_NEVER, 1), gained),
            "compact": Compared(_greedy(8), NONE),
            "subset": Compared(_greedy(8), _decode(8, 1), kept, fewer=True),
        },
        sentence="Delayed caching at refresh 8: {whole.work}, accuracy {whole}. The delay is worth {delay}; the "
        "refresh {refresh}; the compact subset: {compact.work}, accuracy against dkv-decode {subset}.",
        title="The parts of dKV-Cache",
        axis="",
        categories=list(_COMPONENTS),
        lines={"": list(_COMPONENTS.values())},
        style="",
        time="s an answer",
    ),
)
"""In the order in which `all` runs them."""
