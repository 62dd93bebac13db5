"""The stages, the strategies inside them, and what they share.

dataset_prep --> curriculum --> rollout --> reward --> update --> evaluate
 tasks, data,     batch of      rollouts     scores    policy      rows,
 first policy     tasks                                            summary

dataset_prep/ curriculum/ rollout/ reward/ update/ evaluate/
                        one folder per stage: `stage.py` has its contract, and every strategy has a file of its own
continuous/             models that act in simulators: build, read, act
sandbox/                runs code that a user brought, in a process that can do little else
generated/              tasks that an evolution makes from its own rollouts

catalog                 all stages, in one import
piece                   what every configuration of a strategy can be asked
task_table              the task pools of a stage, as tables
trajectories            logged episodes, and windows of them
policy_io               reads and writes policies; `policy_files` checks a folder before a library reads it
tokenizer               text to token ids and back
conversation            prompts that are a conversation with tools
chat_template           the text that a model's chat template puts around a message
  template_child        the process in which such templates are rendered
architecture            the sizes of a language model, without its weights
environments            opens gymnasium environments
"""
