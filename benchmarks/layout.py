"""What laying a weight out once gains a product of few rows, and how many rows come for the price of one.

    python benchmarks/layout.py --widths 512 1024 4096

For each width the weight of gate and up, [43 / 8 of the width, width]: microseconds of a product by number of rows,
plain and laid out, the least of several runs in turn, processor time, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from dkv.layers.cpu_linear import laid_out, linear

ROWS = (1, 8, 16, 24, 32, 48, 64, 128, 320, 1280)


def least(work: Callable[[], object], seconds: float) -> float:
    """The shortest processor time of a call, of those that fit into so many seconds."""
    work()
    shortest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or shortest == float("inf"):
        began = time.process_time()
        work()
        shortest = min(shortest, time.process_time() - began)
    return shortest


def main() -> None:
    """A table for each dtype and width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each number")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| dtype | width | rows | plain, us | laid out, us | laid out / plain | laid out, of one row's |")
    print("|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for dtype in given.dtypes:
            for width in given.widths:
                weight = torch.randn(width * 43 // 8, width).to(getattr(torch, dtype))
                laid, one = laid_out(weight), 0.0
                for rows in ROWS:
                    x = torch.randn(rows, width, dtype=weight.dtype)
                    plain = least(lambda x=x, w=weight: F.linear(x, w), given.seconds)  # type: ignore[misc]
                    taken = least(lambda x=x, w=laid: linear(x, w), given.seconds)  # type: ignore[misc]
                    one = one or taken
                    print(
                        f"| {dtype} | {width} | {rows} | {1e6 * plain:.0f} | {1e6 * taken:.0f} | {taken / plain:.2f} | "
                        f"{taken / one:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
