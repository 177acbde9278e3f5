"""``python -m torchspeed``."""

from torchspeed.cli import main

main()
