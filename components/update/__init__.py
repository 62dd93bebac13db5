"""The update stage: it trains the policy on scored rollouts and writes the next policy.

    batch, rollouts, scores            policy, trainer state            reference policy (if there is a KL term)
              |                                 |                                |
              v                                 v                                v
        stage.update  ->  config.run  ->  policy_gradient.improve  or  parallel.improve  or  sequence.fit
                                                |
              +---------------------------------+--------------------------------+
              v                                 v                                v
       next policy                    next trainer state             statistics of each arm, metrics

To understand GRPO, read `policy_gradient` from top to bottom. The other files hold what it calls.

The stage and its settings
    stage              inputs, outputs and the function of the stage
    config, terms      the settings of a policy-gradient update, and their checks
    presets            the settings of published methods, by name
    schedule, rate     the learning rate over the optimiser steps of a run

The steps of a policy-gradient update, in their order
    policy_gradient    the update itself
    inputs             reads the inputs, refuses those that do not fit, chooses how to use the memory
    update_batch       joins rollouts and scores into groups
    token_advantages   rewards become one advantage for each action token
    minibatches        deals groups to optimiser steps
    batching           arranges the rollouts of a minibatch in forward passes
    forward            from token ids to log-probabilities
    measure, per_token log-probabilities before the update, and all that the loss reads of a token
    comparison         compares trainer and sampler before anything is trained
    publish            writes the next policy and its trainer state
    trace, metrics     what an update saw, and the numbers that it reports
    stats              what it saw of each arm, for the curriculum
    bad_batch          saves the rollouts that a bad number came from

The axes along which the methods differ
    advantages, critic, overlong, filters, losses, kl, aggregate, mismatch, optimizer

The model that is trained
    learner            model, adapters, value head and optimiser, and their state on disk
    lora               low-rank adapters
    bfloat16_copy      forward and backward in bfloat16, with weights in float32
    resident_state     what one update leaves in memory for the next
    footprint, memory  predict the peak memory before a weight is loaded

parallel/              the same update in several processes, with the model in shards
sequence/              the supervised update on windows of logged trajectories
"""
