"""What the scripts of this folder share: an environment for each client, a server, and one line for each case.

Each script installs one client that others wrote into an environment of its own, layered on the one that runs it, and
lets it talk to `dkv serve --model tiny` on a free loopback port, offline. It prints a JSON line for each case:
{"client", "version", "case", "ok", "detail"}; exit code 1 where a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

__all__ = ["REPOSITORY", "Case", "Client", "main", "tokenizer_files"]

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "dkv/tiny"
"""How clients name the tokenizer; it lies in a hub cache of their own, so that nothing is fetched."""
_SECONDS = 300
_SHOWN = 300


@dataclass(frozen=True)
class Case:
    """What one run of a client came to."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Client:
    """A client in its environment. python: its interpreter; folder: for its files; server: the address of `dkv serve`,
    without /v1."""

    name: str
    version: str
    python: Path
    folder: Path
    server: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the client's folder, offline. The first word is a program of the environment."""
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DKV_API_KEY")}
        program = self.python.parent / command[0]
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env={**clean, **offline, "HF_HOME": str(self.folder / "huggingface"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def judge(self, name: str, done: subprocess.CompletedProcess[str], counted: Callable[[], tuple[bool, str]]) -> Case:
        """A case from a run. counted: whether what the client wrote is right, and in words."""
        if done.returncode:
            return Case(name, False, f"exit code {done.returncode}: {' '.join(done.stdout.split())[-_SHOWN:]}")
        try:
            return Case(name, *counted())
        except (OSError, LookupError, TypeError, ValueError) as error:
            return Case(name, False, f"no results: {error!r}")


def main(
    name: str,
    versions: Sequence[str],
    packages: Callable[[str], list[list[str]]],
    cases: Callable[[Client], Iterator[Case]],
) -> None:
    """Run the cases of a client in each version. packages: the arguments of each `pip install`, by version."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path, help="folder for environments, kept for the next run")
    parser.add_argument("--version", action="append", help=f"default: {', '.join(versions)}")
    given = parser.parse_args()
    failed = False
    for version in given.version or versions:
        python = _environment(given.cache.resolve() / f"{name}-{version}", packages(version))
        folder = given.cache.resolve() / f"{name}-{version}.work"
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer_files(folder)
        with _served() as server:
            for case in cases(Client(name, version, python, folder, server)):
                failed |= not case.ok
                line = {"client": name, "version": version, "case": case.name, "ok": case.ok, "detail": case.detail}
                print(json.dumps(line), flush=True)
    sys.exit(failed)


def tokenizer_files(folder: Path) -> None:
    """The embedded model's tokenizer as a hub cache has it (folder/huggingface), and as a directory (tokenizer)."""
    repository = folder / "huggingface" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    for place in (repository / "snapshots" / revision, folder / "tokenizer"):
        place.mkdir(parents=True)
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (place / file).write_bytes(files("dkv.tiny").joinpath("model", file).read_bytes())


def _environment(place: Path, installs: Sequence[Sequence[str]]) -> Path:
    """The interpreter of an environment with the packages; the running one's are there too, torch above all."""
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        where = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        borrowed = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
        Path(where.strip(), "borrowed.pth").write_text(borrowed, encoding="utf-8")
        for packages in installs:
            constraints = ["--constraint", str(ROOT / "constraints.txt")]
            command = [str(python), "-m", "pip", "install", "--quiet", *constraints, *packages]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ready.touch()
    return python


@contextmanager
def _served() -> Iterator[str]:
    """`dkv serve` with nothing set but the port: its address."""
    command = [sys.executable, "-m", "dkv", "serve", "--model", "tiny", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = next(
                (match for line in process.stderr if (match := re.search(r"(http://[\w.:\[\]]+)/v1", line))), None
            )
            if found is None:
                raise SystemExit("dkv serve did not start")
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
