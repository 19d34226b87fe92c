"""Tests of cache policies."""
