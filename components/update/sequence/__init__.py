"""The supervised update: predict actions, and what follows them, in windows of logged trajectories."""
