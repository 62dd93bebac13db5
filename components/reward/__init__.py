"""The reward stage: every rollout gets one score.

rollouts, tasks  --> stage -+-- verify: decode, extract, verify -----------------+--> scores
                            |      |                                             |
                            |      +--> recycle: tasks of later steps -----------|--> generated
                            |                                                    |
logged data  ---------------+-- refine: return-to-go, weight of the past policy -+

stage, config           the contract of the stage, and the settings of its strategies
score                   strategy `verify`: from a rollout to a score row
  extract               finds the answer in a completion
  verifiers             says whether the answer is right
  labels                reads class labels such as Yes and No
  expression, signs     read arithmetic that a model wrote, exactly and without executing it
recycle                 turns attempts into tasks of later steps; `recycle_config` has its settings
functions               a user's reward functions, in the place of a verifier
  signatures            what a function asks for, also in the forms of other libraries
  policy_handle         the policy as a reward function may use it
refine                  strategy `refine`: labels of logged windows, in hindsight
"""
