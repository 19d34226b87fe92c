"""One product with a packed weight, by our slabs and by what torch and torchao have for it: processor time, one thread.

    python benchmarks/quantize_kernels.py [--size 4096]

Rows of x are few where a cache leaves little to compute, and many where a whole canvas or a batch is carried. Without
torchao its column is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.dtypes import DTYPES
from dkv.errors import SettingError
from dkv.layers.quantized import GROUP, pack
from dkv.storage.extras import module_of

SECONDS = 0.3


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of one call: the best of three tries."""
    best = float("inf")
    for _ in range(3):
        calls, began = 0, time.process_time()
        while time.process_time() - began < SECONDS or not calls:
            work()
            calls += 1
        best = min(best, (time.process_time() - began) / calls)
    return best


def products(weight: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    """The ways to multiply x [N, C] by a weight [O, C]. The contents of torch's own packings do not matter here."""
    ops, columns = torch.ops.aten, weight.shape[1]
    eight, four = pack("int8", weight), pack("int4", weight)
    codes, scale = torch.randint(-127, 128, weight.shape, dtype=torch.int8), weight[:, 0].contiguous()
    fours = ops._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, weight.shape, dtype=torch.int32), 1)
    scales = weight[:, : 2 * columns // GROUP].reshape(len(weight), -1, 2).transpose(0, 1).contiguous()
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: F.linear(x, weight),
        "int8": lambda: F.linear(x, eight),
        "int4": lambda: F.linear(x, four),
        "torch's fused int8": lambda: ops._weight_int8pack_mm(x, codes, scale),
        "torch's fused int4": lambda: ops._weight_int4pack_mm_for_cpu(x, fours, GROUP, scales),
    }
    try:
        torchao = module_of("quant", "torchao.quantization")
    except SettingError:
        return ways
    theirs = torchao.Int8Tensor.from_hp(weight, torchao.PerRow())
    return {**ways, "torchao's int8": lambda: F.linear(x, theirs)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="of the weight, both ways")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    given = parser.parse_args()
    dtype = DTYPES[given.dtype]
    torch.set_num_threads(1)
    weight = torch.randn(given.size, given.size).mul_(given.size**-0.5).to(dtype)
    with torch.inference_mode():
        for number, rows in enumerate(given.rows):
            ways = products(weight, torch.randn(rows, given.size).to(dtype))
            if not number:
                print(f"| rows | {' | '.join(ways)} |\n{'|---' * (1 + len(ways))}|")
            print(f"| {rows} | {' | '.join(f'{1000 * spent(work):.1f} ms' for work in ways.values())} |", flush=True)


if __name__ == "__main__":
    main()
