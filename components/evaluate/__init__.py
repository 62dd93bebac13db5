"""The evaluation stage: how good is a policy, and is it better than the baseline?

tasks --> attempts --> stage -+-- answer:   texts, verified --------+--> rows --> summary, intervals
                              |                                     |                  |
                              +-- simulate: episodes, normalised ---+                  v
                                                                       baseline --> compare
                                                                                       |
                                                                                       v
                                                                     better, equal, worse or unknown
                                                                     (the gate reads that of `val`)

stage, config           the contract of the stage, and the settings of its strategies
attempts                which tasks are attempted, and what a strategy returns
answers                 strategy `answer`: greedy and sampled answers, verified
simulate, episodes      strategy `simulate`: episodes in a simulator; `simulators` opens the environments
summary                 scores per task, arm and split, from evaluation rows
intervals               confidence intervals of a mean over arms
compare                 the paired comparison with the baseline, and its verdict
power                   what a validation set of a given size can tell, before anything runs

judge_config            settings for the policy as a judge, and for reflection
judging                 measures both, in order: anchors, then the gate of reflection, then the policy's own answers
  judge                 verdicts on the anchors, and the alarm when the judge gets worse
  reflect               the policy judges its own answer, and answers again where it rejects it
  quality               formulas for how good verdicts are
  asking                greedy questions to the policy, with the probability of the deciding token
"""
