"""Levers of the data pillar."""
