"""The dataset preparation stage: it runs once, at the beginning of an evolution.

It makes the tasks, the logged trajectories if the recipe learns from such, and the initial policy. There are two strategies:

    `text`     arms of domains ──► pools (train, val, test) ──► tasks                     ┐
               new character model, packaged model or checkpoint ──► policy               ├──► checks ──► outputs of the stage
    `offline`  simulator, Minari, D4RL or Parquet ──► episodes ──► slices ──► tasks, data │
               architecture and statistics of the data ──► policy                         ┘

Files for both: `stage.py` is the contract, `config.py` the configurations.

Files of `text`:

- `text.py`: runs the strategy.
- `domains/`: the generators of tasks, for example `countdown` and `sorting`.
- `pools.py`: fills the pools of every arm, so that no task is in two pools.
- `ladders.py`: arms of one domain that get harder from level to level.
- `templates.py`: the text around a task, and the style in which its answer is read.
- `initial.py`: the three kinds of initial policy.
- `charlm.py`: a new character model. `warmstart.py` and `warm_generated.py`: its supervised warm start.
- `packages.py`, `wheel.py`, `gguf_model.py`, `packaged.py`: a pretrained model from a registry package. The files name it,
  download it, convert it and cache it, in this order.

Files of `offline`: the folder `offline/`.
"""
