"""Levers of the parallel pillar."""
