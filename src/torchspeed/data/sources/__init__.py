"""Datasets of every kind, taken apart for the compiler."""
