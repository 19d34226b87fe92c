"""How the published loops pick tokens and positions at temperature 0, and how nearly they would have picked others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "RULES",
    "Choice",
    "Decision",
    "dream_choice",
    "dream_shares",
    "even_shares",
    "llada_choice",
    "most_confident",
]

RULES = ("entropy", "maskgit_plus", "topk_margin")
"""Dream's rules, by their published names."""


@dataclass(frozen=True)
class Choice:
    """A candidate for one position: its token and confidence; by how much the token won (`gap`), and how far the
    nearest token is from being kept or dropped by a filter (`edge`); whether the mask token was likelier, and the
    confidence of whichever was likeliest, by which the published loops would rank it."""

    token: int
    confidence: float
    gap: float
    edge: float
    mask_won: bool
    published: float


@dataclass(frozen=True)
class Decision:
    """What to decode; the smallest margin on which that and its tokens hang; whether the published loops would decode
    a mask here, so that their run and ours part."""

    taken: list[int]
    margin: float
    mask_won: bool


def llada_choice(logits: Tensor, mask: int) -> Choice:
    """The most likely token but the mask, and its probability."""
    token, gap, mask_won = _best(logits, mask)
    share = logits.softmax(dim=0)
    return Choice(token, float(share[token]), gap, math.inf, mask_won, float(share.max()))


def dream_choice(logits: Tensor, mask: int, rule: str, top_p: float | None, top_k: int | None) -> Choice:
    """The most likely token but the mask, and Dream's confidence from the filtered distribution, mask included."""
    token, gap, mask_won = _best(logits, mask)
    kept, edge = _filter(logits, top_p, top_k)
    share = kept.softmax(dim=0)
    if rule == "maskgit_plus":
        return Choice(token, float(share[token]), gap, edge, mask_won, float(share.max()))
    if rule == "entropy":
        confidence = float((share * (share + 1e-10).log()).sum())
    elif rule == "topk_margin":
        first, second = share.topk(2).values.tolist()
        confidence = first - second
    else:
        raise ValueError(rule)
    return Choice(token, confidence, gap, edge, mask_won, confidence)


def most_confident(choices: Mapping[int, Choice], count: int) -> Decision:
    """The `count` most confident positions, ties to the lowest."""
    ranked = sorted(choices, key=lambda p: (-choices[p].confidence, p))
    margins = [choices[p].gap for p in ranked[:count]]
    if 0 < count < len(ranked):
        margins.append(choices[ranked[count - 1]].confidence - choices[ranked[count]].confidence)
        margins += [choice.edge for choice in choices.values()]
    published = sorted(choices, key=lambda p: (-choices[p].published, p))
    mask_won = any(choices[p].mask_won for p in [*ranked[:count], *published[:count]])
    return Decision(ranked[:count], min(margins, default=math.inf), mask_won)


def even_shares(holes: int, steps: int) -> list[int]:
    """LLaDA: an even split of a block, the remainder to the earliest steps."""
    return [holes // steps + (1 if i < holes % steps else 0) for i in range(steps)]


def dream_shares(holes: int, steps: int, eps: float = 1e-3) -> list[int]:
    """Dream: int(n * (1 - t_next / t)) of the n masks left, and all that is left at the last step.

    In float32 as published, for near a whole number the precision decides.
    """
    times = torch.linspace(1, eps, steps + 1, dtype=torch.float32)
    shares: list[int] = []
    for i in range(steps):
        left = torch.tensor(float(holes - sum(shares)), dtype=torch.float32)
        shares.append(int(left * (1 - times[i + 1] / times[i])) if i < steps - 1 else int(left))
    return shares


def _best(logits: Tensor, mask: int) -> tuple[int, float, bool]:
    """The most likely token but the mask, its lead over the next such token, and whether the mask was likelier."""
    allowed = logits.clone()
    allowed[mask] = -math.inf
    values, tokens = allowed.topk(2)
    return int(tokens[0]), float(values[0] - values[1]), bool(logits[mask] >= values[0])


def _filter(logits: Tensor, top_p: float | None, top_k: int | None) -> tuple[Tensor, float]:
    """Logits with the least float on what top-p and then top-k drop, and how near the nearest token is to the edge."""
    edge, dropped = math.inf, torch.finfo(torch.float32).min
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        share = ordered.softmax(dim=0)
        # A token stays while those before it hold no more than top_p, so the one that crosses the line stays too.
        before = share.cumsum(dim=0) - share
        before[0] = 0
        edge = min(edge, float((before[1:] - top_p).abs().min()))
        logits = logits.scatter(0, order[before > top_p], dropped)
    if top_k is not None and top_k < len(logits):
        values = logits.topk(top_k + 1).values
        # Where top-p has dropped more than that already, nothing hangs on this line.
        if float(values[-2]) > dropped:
            edge = min(edge, float(values[-2] - values[-1]))
        logits = logits.masked_fill(logits < values[-2], dropped)
    return logits, edge
