"""Tests of what runs on Ray; without it they are skipped."""
