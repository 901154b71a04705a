"""A flagged picture, with the bundled model's own checker: it flags black stars on white, which harm nobody."""

from __future__ import annotations

import numpy as np

from support.client import Client
from train_shapes.judge import read
from train_shapes.scenes import Scene

FLAGGED = "a big black star on a white background"
OTHER = "a big black heart on a white background"
