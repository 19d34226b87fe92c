"""What goes into the engine and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

from dkv.core.values import plain
from dkv.errors import DkvError
from dkv.outputs import Frame, Generation
from dkv.params import ResolvedParams

__all__ = ["Request", "Status", "Update"]


@dataclass(frozen=True)
class Request:
    """A prompt and how to answer it, checked. `DiffusionLM.request` makes one.

    prompt: token ids; given: what follows the prompt if it is not all masked: token ids, None where masked, of which
    the first gen_length are the response; number: its place among the prompts of one call (a decoder with a given order
    reads it); trace: keep what each step fixed; frames: give a Frame at each step; deltas: give what became final at
    each step, else only the end is told.
    """

    prompt: tuple[int, ...] = field(repr=False)
    settings: ResolvedParams
    seed: int
    number: int = 0
    trace: bool = False
    frames: bool = False
    deltas: bool = True
    given: tuple[int | None, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name in ("prompt", "given"):
            object.__setattr__(self, name, tuple(map(plain, plain(getattr(self, name)))))
        object.__setattr__(self, "seed", plain(self.seed))

    @property
    def length(self) -> int:
        """Positions of all: prompt, response and what follows it."""
        return len(self.prompt) + (len(self.given) or self.settings.gen_length)


@dataclass(frozen=True)
class Update:
    """What a step did to one request. ids: response ids that became final, which is fixed with all before them, up to
    the end-of-text; text: the final text that they add (all texts joined are the generation's); frame: if asked for;
    generation: with the last update; error: with the last update of a request that failed, instead."""

    request_id: int
    ids: tuple[int, ...] = ()
    text: str = ""
    frame: Frame | None = None
    generation: Generation | None = None
    error: DkvError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.generation is not None or self.error is not None

    @property
    def has_output(self) -> bool:
        """Whether there is anything in it; many a step fixes nothing that is final yet."""
        return bool(self.ids or self.text) or self.frame is not None or self.last


@dataclass(frozen=True)
class Status:
    """Where an engine stands. active, waiting: requests now; memory_used, memory_limit: bytes of cache (limit None =
    none set); since its start: requests_started, requests_finished, requests_cancelled, requests_failed, tokens
    (generated, up to the end-of-text, of finished requests), rows_computed (through the MLP, averaged over layers),
    rows_total (what no cache computes in as many forwards), steps, step_seconds (their sum)."""

    active: int
    waiting: int
    memory_used: int
    memory_limit: int | None
    requests_started: int
    requests_finished: int
    requests_cancelled: int
    tokens: int
    rows_computed: float
    rows_total: int
    steps: int
    step_seconds: float
    requests_failed: int = 0
