"""From staircases to spikes: exact grids, conversion that is lossless, the certificate that proves it, the planner."""
