"""The supervised update on logged trajectories: predict the action, and what follows it, in windows of an episode.

    logged episodes, batch, rollouts, scores
          |  batch.join            the windows of one batch with their labels, checked
          v
    samples                        minibatches of windows as tensors, with the targets
          |  train                 one pass over the windows; `losses` has the formula
          v
    learner.save                   the next policy and its trainer state
          |
    probe, stats                   the loss of a few windows before and after, for each arm

`fit` does all this in order. `config` has the settings.
"""
