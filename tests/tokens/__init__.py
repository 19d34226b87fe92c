"""Tests of architectures and loading."""
