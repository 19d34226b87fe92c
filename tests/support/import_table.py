"""Who may import whom: a table over the packages and loose modules of `dkv`.

tests/test_import_table.py holds the code to it, tests/test_architecture_page.py the page docs/architecture.md.
"""

from __future__ import annotations

__all__ = ["EVERYBODY", "TABLE"]

EVERYBODY = ("errors", "storage", "version")
"""What every package may import."""

TABLE: dict[str, tuple[str, ...]] = {
    "errors": (),
    "version": (),
    "storage": ("errors",),
    "core": (),
    "params": ("core",),
    "outputs": ("core", "params"),
    "distributed": (),
    "caches": ("core", "layers.v_verify"),
    "decoders": ("core",),
    "layers": ("core", "distributed"),
    "tokenizer": ("core.model", "core.values"),
    "checkpoints": ("distributed.shard", "tokenizer"),
    "models": ("checkpoints", "core", "distributed", "layers", "tokenizer"),
    "engine": ("core", "distributed.group", "outputs", "params", "tokenizer"),
    "accel": ("core", "layers"),
    "tiny": (),
    "lm": (
        "accel",
        "caches",
        "checkpoints",
        "core",
        "decoders",
        "engine",
        "layers",
        "models",
        "outputs",
        "params",
        "tokenizer",
    ),
    "loading": (
        "accel",
        "caches",
        "checkpoints",
        "core",
        "decoders",
        "distributed",
        "layers",
        "lm",
        "models",
        "params",
        "tiny",
        "tokenizer",
    ),
    "server": (
        "caches",
        "checkpoints",
        "core",
        "decoders",
        "distributed",
        "engine",
        "lm",
        "loading",
        "outputs",
        "params",
        "tiny",
        "tokenizer",
    ),
    "jobs": (
        "checkpoints",
        "core",
        "distributed",
        "engine",
        "layers",
        "lm",
        "loading",
        "outputs",
        "params",
        "server",
    ),
    "lab": (
        "caches",
        "checkpoints",
        "core",
        "decoders",
        "distributed",
        "engine",
        "layers",
        "lm",
        "loading",
        "models",
        "outputs",
        "params",
        "server.served_defaults",
        "tiny",
        "tokenizer",
    ),
    "cli": ("",),
    "__main__": ("cli",),
    "": ("",),
}
"""A package or loose module -> what it may import beside itself and what everybody may. A name with a dot is one
module of that package. "" is the package `dkv` itself, which may import all, as the command line may."""
