"""The playground: one page on which a prompt is denoised live under one policy, or under two side by side."""

from dkv.server.playground.routes import playground

__all__ = ["playground"]
