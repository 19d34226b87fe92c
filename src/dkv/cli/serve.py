"""`dkv serve`: the OpenAI-compatible server, until SIGTERM or Ctrl-C, which let running requests finish first."""

from __future__ import annotations

import math
import os
import sys
from typing import Annotated, Any, cast

import typer

from dkv.cli import options
from dkv.cli.console import say_loading
from dkv.errors import SettingError
from dkv.params import SERVED, Options
from dkv.storage.extras import module_of

__all__ = ["serve"]

_REQUESTS = "Settings of requests that do not choose their own"
_LAST_SECONDS = 10.0
"""For the ranks of a server to end, after the grace."""


def _whole(name: str, meaning: str) -> Any:
    return typer.Option(name, parser=options.whole, metavar="N", help=meaning)


def _number(name: str, meaning: str) -> Any:
    return typer.Option(name, parser=options.number, metavar="X", help=meaning)


def _seconds(name: str, meaning: str) -> Any:
    return typer.Option(name, parser=options.number, metavar="S", help=meaning)


_Host = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Where to listen; beyond this machine only with a key.")
]
_Port = Annotated[int, _whole("--port", "The port to listen on; 0 takes a free one.")]
_NoKey = Annotated[
    bool, typer.Option("--no-key", help="Serve without a key beyond this machine. Keys come from DKV_API_KEY.")
]
_Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What clients call the model. Default: as --model.")
]
_Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="Memory that caches may take, such as 2GB or 500MB. Default: no limit."
    ),
]
_Active = Annotated[int, _whole("--active", "The most requests that are stepped together.")]
_Waiting = Annotated[int, _whole("--waiting", "Requests that may wait for their turn; more are refused (429).")]
_MaxPrompt = Annotated[int, _whole("--max-prompt", "The most tokens of a prompt.")]
_MaxTokens = Annotated[int, _whole("--max-tokens", "The most tokens of a choice.")]
_DefaultTokens = Annotated[
    int | None,
    _whole(
        "--default-tokens", "Tokens of a choice whose request sets no max_tokens. Default: 1024; 128 without growth."
    ),
]
_MaxChoices = Annotated[int, _whole("--max-choices", "The most choices of a request (n times its prompts).")]
_MaxMessages = Annotated[int, _whole("--max-messages", "The most messages of a conversation.")]

_ParseSpecial = Annotated[
    bool, typer.Option("--parse-special", help="Control tokens in a completion's text prompt count as such.")
]
_MaxPerKey = Annotated[
    int | None, _whole("--max-per-key", "The most requests at a time under one key. Default: no limit.")
]
_MaxBody = Annotated[str, typer.Option("--max-body", metavar="SIZE", help="The largest body of a request.")]
_Timeout = Annotated[float, _seconds("--timeout", "Seconds for a request, waiting included; then it ends (504).")]
_Grace = Annotated[float, _seconds("--grace", "Seconds that running requests have after SIGTERM or Ctrl-C.")]
_KeepAlive = Annotated[int, _whole("--keep-alive", "Seconds after which a connection without a request is closed.")]
_Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin",
        metavar="ORIGIN",
        help="Web pages that may use the server, like https://example.org; repeatable. Default: all; 'none': none.",
    ),
]
_Ray = Annotated[bool, typer.Option("--ray", help="Serve from replicas on Ray, here or at RAY_ADDRESS.")]
_Replicas = Annotated[
    int | None, _whole("--replicas", "Replicas on Ray; each loads the model. Default: one per GPU, else 2.")
]
_Log = Annotated[bool, typer.Option("--access-log", help="Log each request's method, path and status; never a text.")]


@options.with_sampling_options(SERVED, panel=_REQUESTS, served=True)
def serve(
    model: options.Model = "tiny",
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    no_key: _NoKey = False,
    name: _Name = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    sampling: Any = None,
    memory: _Memory = None,
    active: _Active = 32,
    waiting: _Waiting = 256,
    max_prompt: _MaxPrompt = 4096,
    max_tokens: _MaxTokens = 4096,
    default_tokens: _DefaultTokens = None,
    max_choices: _MaxChoices = 128,
    max_messages: _MaxMessages = 1024,
    max_per_key: _MaxPerKey = None,
    max_body: _MaxBody = "1MB",
    timeout: _Timeout = 600.0,
    grace: _Grace = 30.0,
    parse_special: _ParseSpecial = False,
    keep_alive: _KeepAlive = 75,
    allow_origin: _Origins = None,
    access_log: _Log = False,
    ray: _Ray = False,
    replicas: _Replicas = None,
    tensor_parallel: options.TensorParallel = 1,
    compile: options.Compile = False,  # noqa: A002 - named as its option
    cuda_graphs: options.CudaGraphs = False,
) -> None:
    """Serve a model to clients of OpenAI's API.

    docs/serve.md describes the routes and fields.
    """
    say_loading(model)
    for needed in ("fastapi", "uvicorn"):
        module_of("serve", needed)
    from dkv.checkpoints.safetensors_writer import parse_size
    from dkv.cli.serving import ServerSetup, serve_alone, serve_on_ranks, serve_on_ray
    from dkv.layers.quantized import check_kind
    from dkv.loading import check_model
    from dkv.server import Limits
    from dkv.server.listen import check_exposure
    from dkv.server.middleware import parse_keys, parse_origins
    from dkv.server.served_defaults import check_options

    limits = Limits(
        parse_size(max_body, "max_body"),
        max_prompt,
        max_tokens,
        default_tokens,
        max_choices,
        max_per_key,
        timeout,
        max_messages,
    )
    if not 0 <= grace < math.inf:
        raise SettingError(f"grace={grace} must be a number of seconds, 0 for none")
    if not 0 < keep_alive < 1 << 31:
        raise SettingError(f"keep_alive={keep_alive} must be a whole number of seconds, at least 1")
    origins = parse_origins(allow_origin)
    if replicas is not None and (not ray or replicas < 1):
        raise SettingError(f"replicas={replicas} must be at least 1, and needs --ray")
    if ray and tensor_parallel != 1:
        raise SettingError(f"tensor_parallel={tensor_parallel} does not go with --ray; use one of them")
    for wanted, given in (("compile", compile), ("cuda_graphs", cuda_graphs)):
        if given and (ray or tensor_parallel != 1):
            raise SettingError(f"{wanted}=True does not go with --ray or --tensor-parallel; leave one of them out")
    for bound, number in (("active", active), ("waiting", waiting)):
        if number < 1:
            raise SettingError(f"{bound}={number} must be a whole number of at least 1")
    check_kind(quantize, tensor_parallel)
    check_model(model)
    settings = cast("Options", {name: value for name, value in sampling.items() if value is not None})
    check_options(settings)
    block_length = settings.get("block_length")
    if block_length is not None and block_length > max_tokens:
        raise SettingError(f"block_length={block_length} exceeds max_tokens={max_tokens}; use less")
    budget = None if memory is None else parse_size(memory, "memory")
    keys = parse_keys(os.environ.get("DKV_API_KEY"))
    check_exposure(host, keys, no_key)
    job = ServerSetup(
        model, device, dtype, name, host, port, keys, limits, budget, active, waiting, grace, access_log,
        ranks=tensor_parallel, quantize=quantize, compile=compile, cuda_graphs=cuda_graphs,
        parse_special=parse_special,
        keep_alive=keep_alive, origins=origins, settings=settings,
    )  # fmt: skip
    if ray:
        serve_on_ray(job, replicas)
    elif tensor_parallel == 1:
        serve_alone(job)
    else:
        from dkv.distributed.launch import launch

        launch(tensor_parallel, serve_on_ranks, job, patience=grace + _LAST_SECONDS)
    print("stopped", file=sys.stderr)
