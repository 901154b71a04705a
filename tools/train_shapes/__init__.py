"""Trains the bundled model `models/shapes` from pictures that a program draws. See README.md."""
