"""Levers of the model pillar."""
