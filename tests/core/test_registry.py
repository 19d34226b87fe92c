"""Specs: parsing, what they refuse, and how caches and decoders are found, third parties' included."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

import dkv
from dkv.caches import known_caches, make_cache
from dkv.caches.dkv_cache import Decode, Greedy, Prefill, PrefillAndDecode
from dkv.caches.none import NoCache
from dkv.core.policy import CachePolicy, Decoder
from dkv.core.registry import describe, discover, keys_of, make, spell_key
from dkv.decoders import known_decoders, make_decoder
from dkv.decoders.confidence import Confidence
from dkv.decoders.random_order import Random
from dkv.errors import SpecError


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("none", NoCache()),
        ("dkv-decode", Decode(refresh=8, delay=1, warmup=None, shift="un_right")),
        ("dkv-decode:refresh=4", Decode(refresh=4)),
        (" dkv-decode: refresh=4 , delay=0, ", Decode(refresh=4, delay=0)),
        ("dkv-decode:", Decode()),
        ("dkv-greedy", Greedy(refresh=2, window=4)),
        ("dkv-greedy:window=0", Greedy(window=0)),
        ("dkv-prefill", Prefill(refresh=0)),
        ("dkv-pd", PrefillAndDecode(refresh=4)),
    ],
)
def test_cache_specs(spec: str, policy: CachePolicy) -> None:
    assert make_cache(spec) == policy
    assert isinstance(policy, CachePolicy)


@pytest.mark.parametrize(
    ("spec", "decoder"), [("confidence", Confidence()), ("random", Random()), ("random:seed=3", Random(seed=3))]
)
def test_decoder_specs(spec: str, decoder: Decoder) -> None:
    assert make_decoder(spec) == decoder
    assert isinstance(decoder, Decoder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dkv-decoed", "unknown name 'dkv-decoed'; known: .*dkv-decode.*none"),
        ("", "unknown name ''; known: "),
        ("DKV-DECODE", "unknown name"),
        ("dkv-decode:refesh=4", "unknown key 'refesh'; dkv-decode takes: refresh, delay, warmup"),
        ("none:refresh=4", "unknown key 'refresh'; none takes: no keys"),
        ("dkv-decode:name=x", "unknown key 'name'"),
        ("dkv-decode:refresh", "write refresh=VALUE, once"),
        ("dkv-decode:refresh=1,refresh=2", "write refresh=VALUE, once"),
        ("dkv-decode:refresh=", "refresh='' is not a value of type int"),
        ("dkv-decode:refresh=four", "refresh='four' is not a value of type int"),
        ("dkv-decode:refresh=4.0", "is not a value of type int"),
    ],
)
def test_unknown_names_and_keys_are_listed(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        make_cache(spec)
    assert "\n" not in str(caught.value)


def test_unknown_decoders_are_listed() -> None:
    with pytest.raises(
        SpecError,
        match="decoder='greedy': unknown name 'greedy'; known: confidence, credit, entropy, entropy-bound, factor",
    ):
        make_decoder("greedy")


def test_what_is_known() -> None:
    assert {"none", "dkv-decode", "dkv-greedy", "dkv-prefill", "dkv-pd"} <= set(known_caches())
    assert {"confidence", "random"} <= set(known_decoders())
    assert list(known_caches()) == sorted(known_caches())


def test_keys_have_defaults() -> None:
    assert keys_of(Decode)["refresh"] == 8
    assert keys_of(NoCache) == {}


@dataclass(frozen=True)
class AllKinds:
    name: ClassVar[str] = "all-kinds"
    flag: bool = True
    share: float = 0.5
    count: int | None = None
    word: str = "x"


def test_values_are_read_by_their_type() -> None:
    built = make("all-kinds:flag=False,share=1e-3,count=7,word=a=b", {"all-kinds": AllKinds}, "cache")
    assert built == AllKinds(flag=False, share=1e-3, count=7, word="a=b")
    with pytest.raises(SpecError, match="flag='yes' is not true or false"):
        make("all-kinds:flag=yes", {"all-kinds": AllKinds}, "cache")
    with pytest.raises(SpecError, match="share='much' is not a value of type float"):
        make("all-kinds:share=much", {"all-kinds": AllKinds}, "cache")


THIRD_PARTY = '''
from dataclasses import dataclass
from typing import ClassVar
from dkv.core.policy import Plan

@dataclass(frozen=True)
class Halves:
    """Everything on even steps, what is masked on odd ones."""
    name: ClassVar[str] = "halves"
    every: int = 2

    def plan(self, step):
        full = (step.block_step % self.every == 0)[:, None]
        return Plan((full & step.canvas.live) | step.masked | step.just_committed)
'''


def install(directory: Path, monkeypatch: pytest.MonkeyPatch, source: str, entry: str) -> None:
    """What `pip install` leaves of a package with one module and one entry point."""
    (directory / "halves_cache.py").write_text(source, encoding="utf-8")
    info = directory / "halves_cache-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halves-cache\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[dkv.caches]\n{entry}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "halves_cache", raising=False)


def test_an_installed_package_adds_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_lm: dkv.DiffusionLM
) -> None:
    with pytest.raises(SpecError, match="unknown name 'halves'"):
        make_cache("halves")
    install(tmp_path, monkeypatch, THIRD_PARTY, "halves = halves_cache:Halves")
    assert "halves" in known_caches()
    assert vars(make_cache("halves:every=3")) == {"every": 3}
    with pytest.raises(SpecError, match="halves takes: every"):
        make_cache("halves:refresh=3")
    (result,) = bare_lm.generate([[1, 2]], gen_length=6, cache="halves", stop_at_eos=False)
    assert result.stats.rows_computed == 8 + 6 + 8 + 4 + 8 + 2


def test_two_claims_to_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, THIRD_PARTY.replace('"halves"', '"none"'), "none = halves_cache:Halves")
    with pytest.raises(SpecError, match="two classes are named 'none'"):
        known_caches()


def test_a_file_in_a_room_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "room_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "one.py").write_text("class One:\n    name = 'one'\n\nclass Helper:\n    pass\n", encoding="utf-8")
    (package / "two.py").write_text("from room_of_tests.one import One\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    room: types.ModuleType = importlib.import_module("room_of_tests")
    assert list(discover(room, "no.such.group")) == ["one"]


def test_classes_are_described_for_who_must_choose() -> None:
    class Some:
        """Does `this`
        and that.

        At length.
        """

        name: ClassVar[str] = "some"

        def __init__(self, must: int, may: bool = True) -> None: ...

    assert describe({"some": Some}) == [
        {"name": "some", "keys": {"may": True}, "required": ["must"], "meaning": "Does `this` and that."}
    ]


def test_keys_are_spelled_with_their_defaults() -> None:
    assert spell_key("first_layer", True) == "first_layer=true"
    assert spell_key("rho", 0.25) == "rho=0.25"
    assert spell_key("warmup", None) == "warmup (not set)"


def test_keys_have_the_types_that_an_init_says_or_that_its_defaults_have() -> None:
    class Typed:
        name = "typed"

        def __init__(self, at: int = 3, share=0.5, on=False, word="x") -> None:  # type: ignore[no-untyped-def]
            self.values = (at, share, on, word)

    made = make("typed:at=4,share=1,on=true,word=7", {"typed": Typed}, "cache")
    assert made.values == (4, 1.0, True, "7")
    with pytest.raises(SpecError, match="at='x' is not a value of type int"):
        make("typed:at=x", {"typed": Typed}, "cache")


def test_annotations_that_name_nothing_are_an_error_of_the_package() -> None:
    class Odd:
        name = "odd"

        def __init__(self, at: Nothing = 3) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(SpecError, match=r"cache: the annotations of Odd cannot be read \(NameError"):
        make("odd", {"odd": Odd}, "cache")
