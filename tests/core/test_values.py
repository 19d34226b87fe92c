"""Numbers and arrays of other libraries as arguments: taken for what they are, wherever a number or an array is."""

from __future__ import annotations

import array
from collections.abc import Callable
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dkv
from dkv.caches.fill import Fill
from dkv.core.values import as_count, as_index, plain
from dkv.decoders import RandomOrder
from dkv.decoders.threshold import Threshold
from dkv.lab.eval.likelihood import Likelihood, Pair


class Size(IntEnum):
    EIGHT = 8


class Indexed:
    """What only says that it is a whole number."""

    def __index__(self) -> int:
        return 8


Q: dict[str, Any] = {"gen_length": 8, "cache": "none", "seed": 3, "temperature": 0.7, "stop_at_eos": False}
INTEGERS: list[Callable[[int], Any]] = [np.int64, np.int8, np.uint16, torch.tensor, np.array]
NUMBERS: list[Callable[[float], Any]] = [np.float64, np.float32, np.float16, torch.tensor, np.array, Fraction]


def ids(lm: dkv.DiffusionLM, prompts: Any, **options: Any) -> list[list[int]]:
    return [result.token_ids for result in lm.generate(prompts, **{**Q, **options})]


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gen_length", 8),
        ("block_length", 4),
        ("steps", 4),
        ("top_k", 5),
        ("seed", 3),
        ("min_tokens", 2),
        ("batch_size", 2),
    ],
)
def test_every_whole_number_may_be_another_librarys(
    kind: Callable[[int], Any], name: str, value: int, bare_lm: dkv.DiffusionLM
) -> None:
    assert ids(bare_lm, [1, 2], **{name: kind(value)}) == ids(bare_lm, [1, 2], **{name: value})


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.5), ("top_p", 0.75), ("cfg_scale", 1.5), ("eos_penalty", 0.25)]
)
def test_every_number_may_be_another_librarys(
    kind: Callable[[float], Any], name: str, value: float, bare_lm: dkv.DiffusionLM
) -> None:
    assert ids(bare_lm, [1, 2], **{name: kind(value)}) == ids(bare_lm, [1, 2], **{name: value})


@pytest.mark.parametrize("value", [Size.EIGHT, Indexed()])
def test_what_is_an_index_is_a_whole_number(value: Any, bare_lm: dkv.DiffusionLM) -> None:
    assert ids(bare_lm, [1, 2], gen_length=value) == ids(bare_lm, [1, 2])


@pytest.mark.parametrize("value", [np.True_, torch.tensor(True), True, np.float64(8), 8.0, torch.tensor([8]), "8", [8]])
@pytest.mark.parametrize("name", ["gen_length", "steps", "seed", "batch_size", "top_k", "min_tokens"])
def test_bools_floats_and_lists_are_no_whole_numbers(name: str, value: Any, bare_lm: dkv.DiffusionLM) -> None:
    if name == "seed" and isinstance(plain(value), list):
        pytest.skip("a list of seeds is one for each prompt")
    with pytest.raises(dkv.SettingError, match=rf"^{name}=.* must be a whole number") as caught:
        bare_lm.generate([1, 2], **{**Q, name: value})
    assert "np." not in str(caught.value)
    assert "tensor" not in str(caught.value)


@pytest.mark.parametrize("value", [np.bool_(True), torch.tensor(True), "1", 1j, torch.tensor([0.5])])
def test_bools_and_texts_are_no_numbers(value: Any, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match=r"^temperature="):
        bare_lm.generate([1, 2], **{**Q, "temperature": value})


ONE = [5, 6, 7]
PROMPTS: list[Any] = [
    torch.tensor(ONE), torch.tensor(ONE, dtype=torch.int32), np.array(ONE), np.array(ONE, dtype=np.uint8), tuple(ONE),
    range(5, 8), [np.int64(5), 6, torch.tensor(7)], array.array("i", ONE), torch.nn.Parameter(torch.tensor(ONE), False),
]  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS, ids=repr)
def test_token_ids_in_every_form(prompt: Any, bare_lm: dkv.DiffusionLM) -> None:
    (expected,) = ids(bare_lm, ONE)
    assert ids(bare_lm, prompt) == [expected]
    assert ids(bare_lm, [prompt]) == [expected]
    assert ids(bare_lm, [prompt, ONE], seed=[3, 3]) == [expected] * 2
    *_, last = bare_lm.stream(prompt, **Q)
    assert last.generation is not None
    assert last.generation.token_ids == expected
    assert bare_lm.request(prompt, **Q).prompt == tuple(ONE)
    assert all(type(token) is int for token in bare_lm.generate(prompt, **Q)[0].prompt_ids)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_matrix_is_a_batch(kind: Callable[[Any], Any], bare_lm: dkv.DiffusionLM) -> None:
    rows = [[5, 6, 7], [8, 9, 10]]
    assert ids(bare_lm, kind(rows)) == ids(bare_lm, rows)
    assert ids(bare_lm, rows, seed=kind([3, 9])) == ids(bare_lm, rows, seed=[3, 9])


def test_an_array_of_texts_is_several(lm: dkv.DiffusionLM) -> None:
    assert ids(lm, np.array(["a", "bc"])) == ids(lm, ["a", "bc"])
    assert ids(lm, np.array("a")) == ids(lm, "a")
    assert ids(lm, "a", stop=np.array(["b", "c"])) == ids(lm, "a", stop=["b", "c"])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.tensor([5.0]), "5.0 is neither a text nor"),
        (torch.tensor([[5.0]]), "5.0 is not a token id"),
        (torch.tensor([True]), "True is not a token id"),
        (np.array([300]), "300 is not a token id below 272"),
        (torch.tensor([]), "prompt is empty"),
        (torch.zeros(0, 4), "prompt is empty"),
        (torch.zeros(2, 0), "prompt is empty"),
        (torch.tensor(5), "5 is neither a text nor"),
        (torch.empty(3, dtype=torch.long, device="meta"), "is neither a text nor"),
        (torch.tensor([5, 0, 7]).to_sparse(), "is neither a text nor"),
        (torch.ones(1, 1, 9, dtype=torch.long), "is not a token id"),
    ],
)
def test_arrays_that_are_no_prompt(prompt: Any, message: str, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.PromptError, match=message) as caught:
        bare_lm.generate(prompt, **Q)
    assert "\n" not in str(caught.value)


def test_canvases_of_arrays(bare_lm: dkv.DiffusionLM) -> None:
    plain_one = bare_lm.infill_canvas([[5, 6], 4, [7]], seed=1)
    seed: dict[str, Any] = {"seed": np.int64(1)}
    other = bare_lm.infill_canvas([torch.tensor([5, 6]), np.int64(4), np.array([7])], **seed)
    assert other.token_ids == plain_one.token_ids
    lengths: dict[str, Any] = {"gen_length": np.int64(4), "block_length": np.int64(2)}
    made = bare_lm.infill(np.array([5, 6]), torch.tensor([7]), **lengths, seed=1)
    assert made.token_ids == bare_lm.infill([5, 6], [7], gen_length=4, block_length=2, seed=1).token_ids


def test_orders_caches_and_decoders_of_arrays(bare_lm: dkv.DiffusionLM) -> None:
    order = [[[3, 2, 4]]]
    forms: list[Any] = [np.array(order), torch.tensor(order), [np.array(order[0])], [[torch.tensor([3, 2, 4])]]]
    for given in forms:
        assert RandomOrder(given) == RandomOrder(order)
        assert ids(bare_lm, [1, 2], gen_length=3, decoder=RandomOrder(given)) == ids(
            bare_lm, [1, 2], gen_length=3, decoder=RandomOrder(order)
        )
    with pytest.raises(dkv.SettingError, match=r"order: 2.5 is no position"):
        RandomOrder([[[2.5, 3]]])  # type: ignore[list-item]
    for cache, decoder in ((np.int64(6), np.float32(0.5)), (torch.tensor(6), torch.tensor(0.5))):
        made = ids(bare_lm, [1, 2], cache=Fill(rows=cache), decoder=Threshold(tau=decoder))  # type: ignore[arg-type]
        assert made == ids(bare_lm, [1, 2], cache="dkv-fill:rows=6", decoder="threshold:tau=0.5")


def test_the_engine_and_likelihoods(bare_lm: dkv.DiffusionLM) -> None:
    bounds: dict[str, Any] = {"memory": np.int64(1 << 30), "active": torch.tensor(2), "waiting": np.int32(3)}
    engine = dkv.Engine(bare_lm, **bounds)
    request = bare_lm.request(np.array([1, 2]), **{**Q, "seed": np.int64(3)})
    assert type(request.seed) is int
    assert engine.add(request) == 0
    score = Likelihood(bare_lm.model, samples=np.int64(9), seed=np.int64(3), batch_size=np.int64(4))  # type: ignore[arg-type]
    pair = Pair(np.array([1, 2]), torch.tensor([3, 4, 5]))  # type: ignore[arg-type]
    expected = Likelihood(bare_lm.model, samples=9, seed=3, batch_size=4).of([Pair((1, 2), (3, 4, 5))])
    assert score.of([pair]) == expected
    with pytest.raises(dkv.SettingError, match="samples=True must be a whole number"):
        Likelihood(bare_lm.model, samples=True)
    with pytest.raises(dkv.PromptError, match="response: 999 is not a token id below 272"):
        Likelihood(bare_lm.model).of([Pair((1,), (999,))])


def test_plain() -> None:
    assert [plain(x) for x in (np.float32(0.5), torch.tensor(2), np.array([1]), "a", None, b"a")] == [
        0.5, 2, [1], "a", None, b"a",
    ]  # fmt: skip
    assert [as_index(x) for x in (1, True, 1.0, "1", None, np.int8(1))] == [1, None, None, None, None, 1]
    assert as_count("n", np.int64(2)) == 2


def test_numpy_is_not_needed() -> None:
    """dkv.core.values imports neither numpy nor torch."""
    source = Path(plain.__code__.co_filename).read_text()
    assert "import numpy" not in source
    assert "import torch" not in source
