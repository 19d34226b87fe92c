"""Tests of unmasking rules."""
