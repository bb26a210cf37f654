"""What LRE's sweeps have in common."""

# Half of what the small preset trains, for tables of several rows; equal in all of them, so that they share stages.
SHORT = {"model.reconstruct.num_epochs": 4, "model.detect.num_epochs": 8}
