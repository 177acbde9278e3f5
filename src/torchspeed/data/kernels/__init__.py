"""Machine code for the loops over pixels, samples and tokens."""
