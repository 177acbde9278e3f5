"""Levers of the optim pillar."""
