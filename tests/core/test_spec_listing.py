"""The list that needs no torch is the list of what specs can name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dkv.core.spec_listing
from dkv.caches import known_caches
from dkv.core.registry import describe, discover
from dkv.core.spec_listing import listed
from dkv.decoders import known_decoders


@pytest.mark.parametrize("room", ["caches", "decoders"])
def test_what_is_read_is_what_is_imported(room: str) -> None:
    known = {"caches": known_caches, "decoders": known_decoders}[room]()
    assert listed(room) == describe(known)


@pytest.mark.parametrize("arguments", [["caches"], ["caches", "--json"]])
def test_a_list_imports_no_torch(arguments: list[str]) -> None:
    code = (
        f"import sys, dkv.cli; sys.argv = {['dkv', *arguments]!r}; dkv.cli.main()\n"
        "print([name for name in ('torch', 'dkv.caches') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stderr == "[]\n"
    assert "dkv-decode" in done.stdout


def package(directory: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A room of one file, which takes the place of dkv.rooms."""
    room = directory / "dkv" / "rooms"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("", encoding="utf-8")
    (room / "one.py").write_text(body, encoding="utf-8")
    monkeypatch.setattr("dkv.__path__", [*import_module("dkv").__path__, str(directory / "dkv")])
    for name in ("dkv.rooms", "dkv.rooms.one"):
        monkeypatch.delitem(sys.modules, name, raising=False)


HEAD = "from dataclasses import dataclass, field\nfrom typing import ClassVar\n"
FORMS = {
    "a new file": "@dataclass(frozen=True)\nclass One:\n    '''Does this.\n\n    And that.'''\n"
    "    name: ClassVar[str] = 'one'\n    must: int\n    may: float = -1.5\n    off: str | None = None\n",
    "a base in the file": "@dataclass(frozen=True)\nclass _Base:\n    eps: float = 1e-3\n\n\n@dataclass(frozen=True)\n"
    'class One(_Base):\n    """Is."""\n    name = "one"\n    more: bool = True\n',
    "a base elsewhere": "from dkv.decoders.threshold import Threshold as Sure\n\n\n@dataclass(frozen=True)\n"
    'class One(Sure):\n    """Is."""\n    name: ClassVar[str] = "one"\n',
    "an __init__": 'class One:\n    """Is."""\n    name = "one"\n    def __init__(self, more: int = 3) -> None: ...\n',
    "a computed default": "MORE = 2\n\n\n@dataclass(frozen=True)\nclass One:\n    name: ClassVar[str] = 'one'\n"
    "    more: int = MORE + 1\n",
    "a field without a default's own form": "@dataclass(frozen=True)\nclass One:\n    name: ClassVar[str] = 'one'\n"
    "    more: int = field(default=3)\n",
    "fields that no dataclass takes": "class One:\n    name = 'one'\n    more: int = 3\n",
    "no named class": "class One:\n    more: int = 3\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_class_of_any_form_is_listed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    package(tmp_path, monkeypatch, HEAD + FORMS[form])
    read = listed("rooms")
    assert read == describe(discover(import_module("dkv.rooms"), "dkv.rooms"))
    assert bool(read) == (form != "no named class")


def test_what_another_package_offers_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def discovered(room: object, group: str) -> dict[str, type]:
        asked.append(group)
        return {}

    monkeypatch.setattr(dkv.core.spec_listing, "offered", lambda group, path: ("an entry point",))
    monkeypatch.setattr(dkv.core.spec_listing, "discover", discovered)
    assert (listed("caches"), asked) == ([], ["dkv.caches"])
