"""Offline data of continuous control: logged episodes are read or recorded, checked, and cut into tasks.

    pendulum (scripted) ─┐
    minari ──────────────┤                                    ┌─► table ──► data
    d4rl ────────────────┼──► Episodes ──► validate ──► noise ┼─► cutting ──► slices = training tasks
    Parquet (table) ─────┤                                    └─► statistics ──► what the policy must know (ContinuousTask)
    Parquet (steps) ─────┘

`Episodes` is the common form of all sources: flat arrays with the steps of all episodes, one after another.

Files:

- `config.py`, `sources.py`: the configuration of the strategy `offline` and of its sources.
- `prepare.py`: runs the strategy.
- `episodes.py`: the class `Episodes`.
- `pendulum.py`, `minari.py`, `d4rl.py`, `steps.py`: the sources. `files.py` recognises which of them a path needs.
  `hdf5.py` and `minari_metadata.py`: safe reading of files that others wrote.
- `table.py`: episodes as a table of rollouts and as a Parquet file.
- `validate.py`, `rows.py`: the checks, step by step and as one row per episode.
- `noise.py`: adds noise to logged actions, as a test of robustness.
- `cutting.py`: cuts episodes into slices. One slice is one training task.
- `statistics.py`: mean and deviation of states, and a summary of every tier of quality.
- `tasks.py`: environments by id, the reference returns of a few of them, and the offline tasks of the paper.
- `references.py`: references and targets of an environment that has no published ones.
- `record.py`, `recording.py`, `sac.py`, `simulate.py`: `instar data`, which trains a policy in a simulator and records episodes.
"""
