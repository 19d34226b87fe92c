"""Runs a model's program against tests in a subprocess with limits on time, memory and files.

It keeps honest mistakes (endless loops, huge allocations) from hurting; it is no jail for hostile code.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile

SECONDS = 5.0
MEGABYTES = 512

# The child limits itself before the program starts; hard limits cannot be raised again. The token is printed only
# when the tests ran to their end, so that a program that exits early does not pass.
_CHILD = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({cpu}, {cpu}))
    resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
except ImportError:
    pass
exec(compile(sys.stdin.read(), 'answer', 'exec'), {{'__name__': 'answer'}})
print({token!r})
"""


def passes(program: str, tests: str, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> bool:
    """Whether `program` followed by `tests` runs to its end within the limits."""
    token = secrets.token_hex(8)
    child = _CHILD.format(cpu=max(1, int(seconds)), memory=megabytes << 20, token=token)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(  # noqa: S603 - running the answer is the point; the child limits itself
                [sys.executable, "-I", "-S", "-c", child], input=f"{program}\n{tests}\n", cwd=folder,
                capture_output=True, text=True, timeout=seconds, check=False, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.strip().endswith(token)
