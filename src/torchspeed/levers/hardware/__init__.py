"""Levers of the hardware pillar."""
