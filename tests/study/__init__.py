"""Tests of `dkv.study`."""
