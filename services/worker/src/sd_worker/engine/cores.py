"""Which threads compute on several cores: the engine's alone.

On a CPU torch divides an operator among a team of OpenMP threads, and each thread that calls operators gets a team of
its own. Threads of a team wait for each other in a loop, which costs next to nothing, for as long as all teams of the
process have no more threads than there are cores. With one thread more they sleep, and the kernel wakes them for each
operator (GNU libgomp, `GOMP_SPINCOUNT`): a second team, used once, made all passes of the bundled model 1.5 times as
long.
"""

from __future__ import annotations

import torch


def compute_on(num_cores: int) -> None:
    """Have operators that the calling thread runs use so many cores."""
    torch.get_num_threads()  # else torch sets, at this thread's first operator, what another thread asked for last
    torch.set_num_threads(num_cores)
