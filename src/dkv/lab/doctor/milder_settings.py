"""What else to try: the settings of a cache, each changed by one step towards less caching."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from dkv.core.policy import CachePolicy

__all__ = ["variants_of"]

_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
_FIRST_REFRESH = 8
"""What a refresh of 0, which is none, is changed to."""


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
