"""Ray (extra `ray`), while it is needed: the cluster of RAY_ADDRESS, or one of this machine's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dkv.errors import EngineError, SettingError
from dkv.extras import module_of

__all__ = ["TRIES", "cluster", "one_line", "share_of", "workers_for"]

TRIES = 3
"""Times that work is begun again after the death of who did it: what kills everyone must not do so for ever."""


@contextmanager
def cluster() -> Iterator[None]:
    """Join Ray, and leave it. Raises SettingError where it is not installed, EngineError where it cannot be had."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its other lines are not for who waits for results
    ray = module_of("ray", "ray")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # it raises bare ones where it is slow to start
        ray.shutdown()
        raise EngineError(f"ray: cannot be started or reached ({one_line(error)}); see RAY_ADDRESS") from None
    try:
        yield
    finally:
        ray.shutdown()


def workers_for(argument: str, wanted: int | None, device: str) -> int:
    """How many processes are to load the model: as wanted, else one for each GPU, or two. device: as `load` takes it.

    Raises SettingError where there are fewer GPUs: Ray would wait for more without end.
    """
    gpus = int(module_of("ray", "ray").cluster_resources().get("GPU", 0)) if _on_gpu(device) else 0
    if _on_gpu(device) and (wanted or 1) > gpus:
        raise SettingError(f"{argument}={wanted or 1} exceeds the {gpus} GPUs of the cluster; use fewer")
    return wanted or gpus or 2


def share_of(workers: int, device: str) -> dict[str, float]:
    """What each of them holds of the cluster, as Ray's options: a GPU, or its part of the CPUs."""
    share = module_of("ray", "ray").cluster_resources().get("CPU", 1) / workers
    return {"num_cpus": int(share) if share >= 1 else share, "num_gpus": 1 if _on_gpu(device) else 0}


def one_line(error: BaseException) -> str:
    """What an error of Ray's says: the last line of a worker's traceback, else the first of its explanations."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) else 0].strip()[:200]


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda")
