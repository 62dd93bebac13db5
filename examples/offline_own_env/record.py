"""Records 40 episodes of MountainCarContinuous-v0 as a Parquet file with one row per step.

    python record.py episodes.parquet

A weak car has to swing back and forth until it reaches the flag on the hill. A good driver pushes in the direction in which the
car already rolls. The driver here does so at a part of all steps, and acts at random at the others. Every third episode is random
throughout. So some episodes are good and many are bad. Write data of your own in the same five columns.
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def record(path: str, episodes: int = 40, seed: int = 0) -> None:
    """Write the episodes to `path`."""
    environment, generator = gymnasium.make("MountainCarContinuous-v0"), np.random.default_rng(seed)
    rows = []
    for episode in range(episodes):
        skill = 0.0 if episode % 3 == 0 else generator.uniform(0.0, 0.6)
        state, _ = environment.reset(seed=1000 * seed + episode)
        done = False
        while not done:
            push = 1.0 if state[1] >= 0 else -1.0
            action = np.array([push if generator.random() < skill else generator.uniform(-1, 1)], np.float32)
            following, reward, terminated, truncated, _ = environment.step(action)
            done = terminated or truncated
            rows.append({"episode": episode, "observation": state, "action": action, "reward": reward, "done": done})
            state = following
    pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    record(sys.argv[1])
