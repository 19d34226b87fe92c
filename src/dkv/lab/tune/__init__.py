"""`dkv tune`: the fastest cache and decoder whose answers stay within a budget. One noun a file.

space: what is tried; budget: what may be lost, and what a count of examples can certify; race: which settings go on;
session: all of it, resumable; chosen: the settings found, and where `--cache auto` finds them.
"""

__all__: list[str] = []
