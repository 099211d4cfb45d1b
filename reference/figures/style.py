"""The names of the two losses that the demo and the figures compare."""

CROSS_ENTROPY, MC_LOSS = "cross-entropy", "cross-entropy + MC-Loss"
