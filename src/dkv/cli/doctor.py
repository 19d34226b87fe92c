"""`dkv doctor`: what goes wrong with a cache on a model and prompts, and the setting to try."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dkv.cli import options
from dkv.cli.console import print_json, printable, say_loading
from dkv.cli.live import telling
from dkv.errors import SettingError

if TYPE_CHECKING:
    from dkv.lab.doctor.examine import Diagnosis

__all__ = ["doctor"]

_DEFAULT = ("dkv-decode", "dllm-cache")
_WIDTH = 100

_Caches = Annotated[
    list[str] | None,
    options.named("--cache", "Cache; may be repeated. Default: dkv-decode and dllm-cache.", None, "SPEC"),
]
_Prompts = Annotated[
    Path | None, options.placed("--prompts", "A file with one prompt per line, or .jsonl with a field prompt.")
]
_Count = Annotated[int, options.counted("--count", "Number of prompts to use.")]
_GenLength = Annotated[int, options.counted("--gen-length", "Positions of the response.")]


def doctor(
    model: options.Model = "tiny",
    prompts: _Prompts = None,
    cache: _Caches = None,
    count: _Count = 6,
    gen_length: _GenLength = 64,
    block_length: options.BlockLength = None,
    steps: options.Steps = None,
    decoder: options.Decoder = None,
    chat: options.Chat = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    as_json: options.Json = False,
) -> None:
    """Find what goes wrong with a cache here, and what to set."""
    if not 1 <= count <= 256:
        raise SettingError(f"count={count} must be a whole number from 1 to 256: all prompts share a batch")
    specs = list(cache or _DEFAULT)
    say_loading(model, as_json)
    import dkv
    from dkv.lab.common.lab_prompts import default_prompts, read_prompts
    from dkv.lab.doctor.examine import ExamineOptions, examine

    for spec in specs:
        dkv.caches.make_cache(spec)  # a misspelled one should not cost the loading
    given = None if prompts is None else read_prompts(prompts, count)
    lm = dkv.load(model, device=device, dtype=dtype, quantize=quantize, compile=compile)
    given = default_prompts(lm, count, gen_length, chat) if given is None else given
    asked = ExamineOptions(gen_length, block_length, steps, decoder, chat)
    with telling() as tell:
        found = examine(lm, given, specs, asked, tell)
    if as_json:
        how = {"model": model, "quantize": quantize, "compile": compile, "prompts": len(given), **asdict(asked)}
        print_json({**how, "caches": [asdict(d) for d in found]})
    else:
        _print(model, len(given), found)


def _print(model: str, count: int, found: list[Diagnosis]) -> None:
    for diagnosis in found:
        print(printable(f"{diagnosis.cache} on {model}, {count} prompts"))
        for finding in diagnosis.findings:
            print(f"\n  {finding.status.upper():<8}{finding.name}")
            for label, text in (("measured", finding.measured), ("try", finding.advice)):
                if text != "none":
                    head = f"    {label + ':':<10}"
                    print(printable(textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * 14)))
        print()
