"""What decoders note moves with its sequence, however deep each one's notes are, and is nobody else's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import dkv
from dkv.core.policy import Decoder, ReadsBlock, StatefulDecoder, Step, most, state_size_of
from dkv.core.sampling import Predictions
from dkv.engine.per_sequence import PerSequenceDecoder, PolicyCalls
from dkv.models import Transformer
from tests.support.engine_runs import alone, finished, same
from tests.support.runs import POLICIES, play, start


@dataclass(frozen=True)
class Patient(ReadsBlock):
    """Fix what was read `notes` times, one number of each position for every time; else one position a step."""

    name: ClassVar[str] = "patient"
    adaptive: ClassVar[bool] = True
    state_size: int

    def update_state(self, step: Step, read: Predictions) -> Tensor:
        assert step.decoder_state is not None
        before = read.at(step.decoder_state)[:, : self.state_size]
        return torch.cat((torch.ones_like(before[:, :1]), before[:, :-1]), dim=1)

    def commit(self, step: Step, read: Predictions) -> Tensor:
        assert step.decoder_state is not None
        ripe = read.spread(read.at(step.decoder_state)[:, self.state_size - 1] > 0, False)
        return ripe | most(read, read.confidence, step.num_transfer_tokens)


def test_notes_come_and_go_with_their_sequences(lm: dkv.DiffusionLM) -> None:
    rng = random.Random(3)
    engine, requests = dkv.Engine(lm, active=4), dict[int, dkv.Request]()
    decoders: list[str | Decoder] = [
        Patient(2),
        "confidence",
        Patient(3),
        "credit:tau=0.02,alpha=3",
        Patient(1),
        "random",
    ]
    for n in range(36):
        prompt = [rng.randrange(200) for _ in range(rng.randint(1, 9))]
        request = lm.request(
            prompt,
            gen_length=rng.choice([4, 8, 12]),
            block_length=4,
            seed=n,
            cache=rng.choice(POLICIES),
            decoder=rng.choice(decoders),
            cfg_scale=rng.choice([0.0, 0.0, 0.8]),
            stop_at_eos=False,
            trace=True,
        )
        requests[engine.add(request)] = request
    results = finished(engine)
    assert all(same(results[ticket], alone(lm, request)) for ticket, request in requests.items())


def test_notes_begin_as_nothing_and_stay_where_nothing_is_read(model: Transformer) -> None:
    """Blocks of two: the second one is not read while the first is."""
    state = start(model, [[1, 2], [3]], 4, 2, decoder=Patient(5))
    ticks = play(state)
    first, second, third, _ = (tick.step.decoder_state for tick in ticks)
    assert first is not None
    assert second is not None
    assert third is not None
    assert not first.any()
    assert second.sum(2).tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]]
    assert sorted(third.sum(2)[0].tolist()) == [0, 0, 0, 0, 1, 2]


def test_who_keeps_nothing_has_nothing(model: Transformer) -> None:
    state = start(model, [[1]], 2, decoder="confidence")
    assert state.sequences.decoder_state is None
    assert all(tick.step.decoder_state is None for tick in play(state))
    many = [state.decoder, Patient(3), Patient(2)]
    sizes = [state_size_of(decoder) for decoder in many]
    assert state_size_of(PerSequenceDecoder(many, sizes, state.sequences.order, PolicyCalls(1, 3))) == 3
    assert state_size_of(PerSequenceDecoder(many[:1], sizes[:1], state.sequences.order, PolicyCalls(1, 1))) == 0
    assert isinstance(Patient(1), StatefulDecoder)
    assert not isinstance(state.decoder, StatefulDecoder)
