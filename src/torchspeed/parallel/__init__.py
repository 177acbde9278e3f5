"""The parallel pillar: one batch in pieces, on one device or on many."""
