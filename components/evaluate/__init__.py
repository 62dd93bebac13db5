"""Evaluation: how good is a policy, and is it better than the baseline."""
