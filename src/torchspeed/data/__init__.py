"""The data pillar: order and randomness, loading, and readers of images, sound and text."""
