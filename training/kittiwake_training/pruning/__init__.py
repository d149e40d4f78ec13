"""Networks made smaller for devices: structured pruning to a target, and dead channels removed with proof."""
