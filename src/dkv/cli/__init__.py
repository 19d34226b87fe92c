"""The command `dkv`: one file per command. Nothing here imports torch before a command needs it, so help is instant."""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command line on sys.argv and return the exit code: 0, 2 for an error of the user's, 130 for Ctrl-C."""
    try:
        # Imported here, so that Ctrl-C while Python is still importing ends as quietly as later.
        from dkv.cli.commands import run

        return run()
    except KeyboardInterrupt:
        return 130
