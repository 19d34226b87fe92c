"""Where the time of a step goes: products, attention, and all else, by policy.

    python benchmarks/profile_step.py --widths 512 1024 --batches 1 8 --prompts 64 512

Random weights, 8 layers, gen 256, one thread by default. Products and attention as torch's profiler has them, over some
steps of a generation; the whole from the processor's clock, over the same steps without it. "All else" is the rest:
norms, rotation, sums, the cache's writes, the plan, the decoder, and Python between them. What a product does to its
own result before it writes it (the gate's activation) is part of the product.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch
from bare import Case, begin
from random_model import random_model, shape
from sampled import again
from torch.profiler import ProfilerActivity, profile

from dkv.accel.backend import choose_backend
from dkv.core.loop import advance
from dkv.layers.transformer import Transformer

PRODUCTS = ("mkldnn::_linear_pointwise", "mkldnn::_linear_pointwise.binary", "aten::addmm", "aten::bmm", "aten::mm")
ATTENTION = ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_softmax")


def shares(network: Transformer, case: Case, spec: str, given: argparse.Namespace) -> str:
    """A line of the table, and the costliest of all else."""
    state = begin(network, spec, case)
    for _ in range(4):
        advance(state)
    total, times = 0.0, Counter[str]()
    for _ in range(given.steps):
        advance(again(state, network))  # the first of new shapes builds its kernels
        same = again(state, network)
        began = time.process_time()
        advance(same)
        total += 1e6 * (time.process_time() - began)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            advance(state)
        times.update({event.key: event.self_cpu_time_total for event in seen.key_averages()})
    products = sum(times.get(name, 0) for name in PRODUCTS)
    attention = sum(times.get(name, 0) for name in ATTENTION)
    rest = sorted((t, name) for name, t in times.items() if name not in PRODUCTS + ATTENTION)[::-1][: given.shown]
    told = ", ".join(f"{name.removeprefix('aten::')} {t / total:.1%}" for t, name in rest)
    other = 1 - (products + attention) / total
    return (
        f"| {network.config.width} | {str(network.dtype).removeprefix('torch.')} | {case.batch} | {case.prompt} | "
        f"`{spec}` | {total / given.steps / 1000:.1f} | {products / total:.1%} | {attention / total:.1%} | "
        f"{other:.1%} | {told} |"
    )


def main() -> None:
    """Every case asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--gen", type=int, default=256)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--cache", action="append", help="default: none, dkv-decode, dllm-cache, dkv-fill")
    parser.add_argument("--steps", type=int, default=28, help="timed, and as many profiled")
    parser.add_argument("--shown", type=int, default=4, help="of all else, the costliest so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="with what `--compile` builds")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| width | dtype | batch | prompt | policy | ms a step | products | attention | all else | of it |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for dtype in given.dtypes:
        for width in given.widths:
            network = random_model(shape(width, 8, width // 64, width * 43 // 16, 2048), getattr(torch, dtype))
            made = choose_backend(network, network.device, compile=given.compile).network
            assert isinstance(made, Transformer)
            for batch in given.batches:
                for prompt in given.prompts:
                    case = Case(batch, prompt, given.gen, given.gen)
                    for spec in given.cache or ("none", "dkv-decode", "dllm-cache", "dkv-fill"):
                        print(shares(made, case, spec, given), flush=True)


if __name__ == "__main__":
    main()
