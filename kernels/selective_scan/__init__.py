"""Selective scan of Mamba-1 (arXiv 2312.00752, section 3): the recurrence of the state space model, in five versions."""
