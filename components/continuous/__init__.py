"""Policies for control from logged data: Decision Mamba, Decision Transformer and behaviour cloning, one interface.

`config` names an architecture and the task it acts in and imports nothing heavy. `build` makes or reads a model.
Every model takes the same windows, gives the same output and acts through the same state, so training and evaluation
are written once.
"""
