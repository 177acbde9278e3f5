"""What the transforms of torchvision draw and do, read from the user's own objects; one file per technique."""
