"""No prompt passes more files than tools/trace_files.py allows."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT

TOOL = ROOT / "tools" / "trace_files.py"


def test_no_way_passes_more_files_than_allowed(tmp_path: Path) -> None:
    home = os.environ | {"DKV_HOME": str(tmp_path)}  # nothing that was tuned on this machine
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, env=home, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in ("core/loop.py", "server/completions.py", "engine/async_engine.py"):
        assert f" {path}\n" in done.stdout


def test_one_file_too_many_is_told() -> None:
    names = runpy.run_path(str(TOOL))
    limits, exceeded = names["LIMITS"], names["exceeded"]
    assert exceeded(limits) == []
    for way, limit in limits.items():
        (line,) = exceeded({**limits, way: limit + 1})
        assert line.startswith(f"{way}: {limit + 1} files, but at most {limit}")
