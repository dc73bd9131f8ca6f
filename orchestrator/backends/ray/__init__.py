"""Workers as Ray actors."""

import time

BEGAN = time.monotonic()
"""When this process began to load what follows: of an actor soon after Ray has given it its CPUs and GPUs."""
