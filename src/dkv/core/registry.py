"""Specs: `name[:key=value,...]` strings to frozen settings objects, and how files of a room are found.

A cache or a decoder is a class whose keyword arguments are its keys; its `name` is what a spec calls it. Every file
of `dkv.caches` and `dkv.decoders` is found by itself, and installed packages add theirs by entry point.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar, get_type_hints

from dkv.core.values import shown
from dkv.errors import SettingError, SpecError

__all__ = [
    "Registry",
    "alike",
    "describe",
    "discover",
    "first_alike",
    "is_own",
    "keys_of",
    "make",
    "meaning_of",
    "name_of",
    "offered",
    "spec_of",
    "spell_key",
]

T = TypeVar("T")

_TRUE_FALSE = {"true": True, "false": False}


class Registry(Generic[T]):
    """The classes of one package by the names that specs call them: those in its files, and those that installed
    packages offer as entry points of the group with the package's name."""

    def __init__(self, package: str, what: str, presets: Mapping[str, str] | None = None) -> None:
        """what: "cache" or "decoder", as messages call them; presets: specs by the name NAME of `preset:NAME`."""
        self._package, self._what, self._presets = package, what, presets or {}

    def known(self) -> dict[str, type]:
        """Every class by its name. Raises SpecError as `discover`."""
        return discover(importlib.import_module(self._package), self._package)

    def make(self, spec: str) -> T:
        """What a spec such as "dkv-decode:refresh=8" or "preset:dllm/gsm8k-instruct" asks for. Raises SpecError."""
        kind, _, name = (part.strip() for part in spec.partition(":"))
        if self._presets and kind == "preset":
            if name not in self._presets:
                known = ", ".join(self._presets)
                raise SpecError(f"{self._what}={shown(spec)}: unknown preset {shown(name)}; known: {known}")
            spec = self._presets[name]
        made: T = make(spec, self.known(), self._what)
        return made


def discover(room: ModuleType, group: str) -> dict[str, type]:
    """Classes with a `name` defined in the files of `room`, then those of entry-point `group`, by name.

    Raises SpecError where two claim one name, or a package's entry point does not hold a named class.
    """
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and value.__module__ == module.name and "name" in vars(value):
                _claim(found, value)
    for entry in offered(group, tuple(sys.path)):
        _claim(found, _loaded(entry))
    return dict(sorted(found.items()))


@lru_cache(maxsize=8)
def offered(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What installed packages offer to a group. To look takes milliseconds, too long for each request of a server."""
    return tuple(entry_points(group=group))


def _loaded(entry: EntryPoint) -> Any:
    """What an installed package offers. Raises SpecError where it cannot be imported or has no name."""
    try:
        value = entry.load()
    except Exception as error:  # whatever another package's import raises
        raise SpecError(f"entry point {entry.value!r} fails: {error!r}; mend or uninstall that package") from None
    if not (inspect.isclass(value) and isinstance(getattr(value, "name", None), str)):
        raise SpecError(f"entry point {entry.value!r} is no class with a name; mend or uninstall that package")
    return value


def _claim(found: dict[str, type], value: Any) -> None:
    if found.setdefault(value.name, value) is not value:
        raise SpecError(f"two classes are named {value.name!r}: {found[value.name]!r} and {value!r}; rename one")


def keys_of(kind: type) -> dict[str, Any]:
    """The keys that a class takes in a spec, with their defaults."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters}


def describe(known: Mapping[str, type]) -> list[dict[str, Any]]:
    """What a reader needs to choose among the `known` classes: of each its name, keys with defaults, required keys, and
    meaning (the first paragraph of its docstring, on one line)."""
    return [
        {"name": name, **_split_keys(kind), "meaning": meaning_of(inspect.getdoc(kind) or "")}
        for name, kind in known.items()
    ]


def _split_keys(kind: type) -> dict[str, Any]:
    """Keys with their defaults; those of another package's class may have none."""
    keys = keys_of(kind)
    required = [key for key, default in keys.items() if default is inspect.Parameter.empty]
    return {"keys": {k: v for k, v in keys.items() if k not in required}, "required": required}


def meaning_of(docstring: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(docstring.partition("\n\n")[0].split())


def make(spec: str, known: Mapping[str, type], what: str) -> Any:
    """Build what `spec` asks for from the `known` classes; `what` ("cache", "decoder") names it in errors.

    Raises SpecError for an unknown name or key (listing the known ones) and for a value of the wrong type.
    """
    try:
        return _made(spec, known, what)
    except SettingError as error:
        error.argument = what
        raise


def _made(spec: str, known: Mapping[str, type], what: str) -> Any:
    name, _, rest = spec.strip().partition(":")
    if name not in known:
        raise SpecError(f"{what}={shown(spec)}: unknown name {shown(name)}; known: {', '.join(known)}")
    kind = known[name]
    keys, hints = keys_of(kind), _hints(kind, what)
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, text = item.partition("=")
        if key not in keys:
            takes = ", ".join(keys) or "no keys"
            raise SpecError(f"{what}={shown(spec)}: unknown key {shown(key)}; {name} takes: {takes}")
        if not equals or key in values:
            raise SpecError(f"{what}={shown(spec)}: write {key}=VALUE, once")
        values[key] = _parse(text, hints.get(key, str), f"{what}={shown(spec)}: {key}={shown(text)}")
    return _built(kind, values, f"{what}={shown(spec)}")


def _hints(kind: type, what: str) -> dict[str, Any]:
    """The types of a class's keys: as annotated at its `__init__` or in its body, else those of the defaults. Raises
    SpecError for annotations of another package that name nothing."""
    plain = {key: type(value) for key, value in keys_of(kind).items() if type(value) in (bool, int, float)}
    try:
        return {**plain, **get_type_hints(kind), **get_type_hints(inspect.getattr_static(kind, "__init__"))}
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise SpecError(
            f"{what}: the annotations of {kind.__name__} cannot be read ({why}); mend that package"
        ) from None


def _built(kind: type, values: dict[str, Any], where: str) -> Any:
    """An object of a class, which another package may have written. Raises SpecError."""
    try:
        return kind(**values)
    except SettingError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())
        raise SpecError(f"{where}: cannot be made ({type(error).__name__}: {line[:200]})") from None


def _parse(text: str, hint: Any, where: str) -> Any:
    """Read `text` as the annotated type: bool, int, float, str, or one of those or None."""
    kinds = [t for t in getattr(hint, "__args__", (hint,)) if t is not type(None)]
    kind = kinds[0] if kinds and kinds[0] in (bool, int, float) else str
    try:
        return _TRUE_FALSE[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        expected = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise SpecError(f"{where} is not {expected}") from None


def is_own(thing: object) -> bool:
    """Whether a cache, decoder or layer rule is one of this package's, rather than of another one's."""
    return type(thing).__module__.partition(".")[0] == "dkv"


def name_of(thing: object) -> str:
    """What a cache or a decoder is called, whatever its attributes do."""
    try:
        name = thing.name  # type: ignore[attr-defined]
    except Exception:
        name = None
    return name if type(name) is str and name else type(thing).__name__


def alike(one: object, other: object) -> bool:
    """Whether one stands for the other. Another package's class has a say about its own kind only."""
    if one is other or type(one) is not type(other):
        return one is other
    try:
        return (one == other) is True
    except Exception:
        return False


def first_alike(thing: T, known: Iterable[T]) -> T:
    """The first of the known things that is alike, itself where none is."""
    return next((one for one in known if alike(one, thing)), thing)


def spec_of(made: object) -> str:
    """The spec that makes this cache or decoder, every key written out; keys that are None cannot be spelled."""
    keys = {key: getattr(made, key, default) for key, default in keys_of(type(made)).items()}
    pairs = ",".join(f"{key}={_spell(value)}" for key, value in keys.items() if value is not None)
    name = getattr(made, "name", type(made).__name__)
    return f"{name}:{pairs}" if pairs else str(name)


def spell_key(key: str, default: object) -> str:
    """A key as a spec would spell it with its default; None cannot be spelled."""
    return f"{key} (not set)" if default is None else f"{key}={_spell(default)}"


def _spell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
