"""A training that somebody else's code holds, as a ``Run`` that levers can be applied to."""
