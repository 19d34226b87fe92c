"""`dkv eval`: accuracy by cache, each paired with no cache on the same examples; interrupted runs go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from dkv.cli import options
from dkv.cli.console import print_json, print_table, printable, say_loading
from dkv.cli.live import keeping, telling
from dkv.errors import SettingError

__all__ = ["evaluate"]

_Tasks = Annotated[
    str | None,
    options.named("--tasks", "Separated by commas. Default: the embedded ones, and files given.", None, "NAMES"),
]
_Gsm8k = Annotated[Path | None, options.placed("--gsm8k", "A local file for the task gsm8k.")]
_HumanEval = Annotated[Path | None, options.placed("--humaneval", "A local file for the task humaneval.")]
_Execute = Annotated[
    bool, options.switch("--execute-code", "Allow humaneval to run what the model writes: limited, no network.")
]
_Unconfined = Annotated[
    bool, options.switch("--unconfined-code", "Allow lm-eval's own code tasks, which run programs without limits.")
]
_Caches = Annotated[
    list[str] | None,
    options.named("--cache", "Cache; may be repeated. Default: all. none is always measured.", None, "SPEC"),
]
_GenLength = Annotated[
    int | None, options.counted("--gen-length", "Positions of the response. Default: the task's own.")
]
_Seed = Annotated[int, options.counted("--seed", "Seed of all random choices.")]
_Count = Annotated[int | None, options.counted("--count", "Examples of each task. Default: all; embedded ones 24.")]
_Full = Annotated[bool, options.switch("--full", "All 400 examples of each embedded task.")]
_BatchSize = Annotated[int, options.counted("--batch-size", "Prompts that share a batch.")]
_Out = Annotated[Path, options.placed("--out", "Where answers are kept; a run with them goes on.")]
_Markdown = Annotated[bool, options.switch("--markdown", "Print a Markdown table.")]
_Served = Annotated[
    bool, options.switch("--served", "What dkv serve gives a plain request, paired with one token a step, no cache.")
]
_FewShot = Annotated[
    int | None, options.counted("--num-fewshot", "Examples in the prompt of lm-eval's tasks. Default: the task's.")
]
_Samples = Annotated[int, options.counted("--mc-samples", "Draws for each likelihood of lm-eval's tasks.")]
_Include = Annotated[
    Path | None, options.placed("--include-path", "A directory of further lm-eval tasks (YAML).", None, "DIR")
]


def evaluate(
    tasks: _Tasks = None,
    model: options.Model = "tiny",
    cache: _Caches = None,
    decoder: options.Decoder = None,
    gen_length: _GenLength = None,
    block_length: options.BlockLength = None,
    steps: options.Steps = None,
    grow: options.Grow = False,
    served: _Served = False,
    cfg_scale: options.CfgScale = 0.0,
    seed: _Seed = 0,
    count: _Count = None,
    full: _Full = False,
    batch_size: _BatchSize = 40,
    out: _Out = Path("dkv-eval.jsonl"),
    gsm8k: _Gsm8k = None,
    humaneval: _HumanEval = None,
    execute_code: _Execute = False,
    num_fewshot: _FewShot = None,
    mc_samples: _Samples = 128,
    include_path: _Include = None,
    unconfined_code: _Unconfined = False,
    chat: options.Chat = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    markdown: _Markdown = False,
    as_json: options.Json = False,
) -> None:
    """Measure the accuracy of each cache, paired with no cache.

    Every figure comes with its count and its 95% interval. Names that are no tasks of dkv are lm-eval's.
    """
    if markdown and as_json:
        raise SettingError("markdown and json exclude each other; give one of them")
    say_loading(model, as_json)
    from dkv.lab.eval.eval_session import CACHES, EvalOptions, EvalSession

    wanted = EvalOptions(
        tasks=tasks, model=model, caches=tuple(cache or CACHES), decoder=decoder, gen_length=gen_length,
        block_length=block_length, steps=steps, cfg_scale=cfg_scale, seed=seed,
        count=count, full=full, batch_size=batch_size, out=out, gsm8k=gsm8k,
        humaneval=humaneval, execute_code=execute_code, num_fewshot=num_fewshot, mc_samples=mc_samples,
        include_path=include_path, unconfined_code=unconfined_code, chat=chat, device=device, dtype=dtype,
        quantize=quantize, compile=compile, grow=grow, served=served,
    )  # fmt: skip
    session = EvalSession(wanted)
    with session.store, keeping(lambda: f"{len(session.store)} results are kept in {out}"), telling() as tell:
        rows = session.run(tell)
    from dkv.lab.eval import eval_table

    if as_json:
        print_json({**session.common, "out": str(out), "results": [eval_table.as_json(row) for row in rows]})
    elif markdown:
        print(printable(eval_table.markdown(rows)))
    else:
        text = set(eval_table.HEADINGS) - {"agree", "rows", "tokens/s"}
        print_table(eval_table.HEADINGS, map(eval_table.cells, rows), text, lines=True)
