"""Random-weight models of a given shape, for timing; they are `dkv bench`'s own."""

from dkv.lab.bench.shapes import random_model, shape

__all__ = ["random_model", "shape"]
