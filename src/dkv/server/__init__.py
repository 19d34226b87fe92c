"""Serving over HTTP: what needs the extra `serve`."""

__all__: list[str] = []
