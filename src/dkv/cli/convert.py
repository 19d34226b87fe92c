"""`dkv convert`: a checkpoint in another dtype or other shards, in the published format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dkv.cli import options

__all__ = ["convert"]

_Source = Annotated[str, typer.Argument(metavar="SRC", help="tiny, a directory, or a hub id.", show_default=False)]
_Destination = Annotated[
    Path,
    typer.Argument(
        parser=options.place, metavar="DST", help="A directory that does not exist or is empty.", show_default=False
    ),
]
_Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16, ... Default: as stored.")
]
_Size = Annotated[str, typer.Option("--max-shard-size", metavar="SIZE", help="Most bytes of tensors in a file.")]


def convert(source: _Source, destination: _Destination, dtype: _Dtype = None, max_shard_size: _Size = "5GB") -> None:
    """Write a checkpoint in another dtype or other shards.

    DST is complete or not there at all; one tensor is in memory at a time.
    """
    from dkv.checkpoints.safetensors_writer import parse_size
    from dkv.core.dtypes import named_dtype
    from dkv.loading import find_model
    from dkv.models import saving

    kind, most = None if dtype is None else named_dtype("dtype", dtype), parse_size(max_shard_size)
    saving.convert(find_model(source), destination, kind, most)
    files = sorted(destination.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    print(f"{destination}: {len(files)} file{'s' * (len(files) > 1)}, {size / 1e9:.2f} GB", file=sys.stderr)
