"""Tasks that an evolution makes out of its own rollouts: judging an answer, choosing between two, correcting an attempt.

Shared by the reward stage, which makes them, the curriculum, which draws them, and the evaluation, which asks the same questions.
"""
