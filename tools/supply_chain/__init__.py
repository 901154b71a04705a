"""What the images are made of, and whether something is known against it."""
