"""Policies for continuous control, trained on logged episodes: Decision Mamba, Decision Transformer and behaviour cloning.

All three have one interface. They read the same windows of (return-to-go, state, action), give the same output, and act through the
same kind of state. So training and evaluation are written once for all of them.

    training:  window of K steps ──► windows (checks) ──► units ──► tokens ──► layers ──► heads ──► predicted actions
    acting:    one step of an episode, and the state so far ──► units ──► tokens ──► layers ──► heads ──► action, new state

Files:

- `config.py`: plain values, no torch: the architectures, and `ContinuousTask`, which describes the environment.
- `model.py`: the base class of the three policies: `forward` for windows, `step` for acting.
- `decision_mamba.py`, `decision_transformer.py`, `behaviour_cloning.py`: the three policies.
- `build.py`: makes a new policy from a seed, and loads a stored one.
- `windows.py`: checks the tensors that a caller passes.
- `units.py`: converts between the units of the environment and those of the model.
- `tokens.py`: makes three tokens of every step, and holds the output heads.
- `mixer.py`, `conv.py`: the selective scan layer of Decision Mamba, and its convolution.
- `acting.py`: the state that a policy carries through an episode.
- `actor.py`: opens a stored policy on a device, for rollouts and updates.
"""
