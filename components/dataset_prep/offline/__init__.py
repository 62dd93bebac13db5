"""Offline data of continuous control: episodes from a simulator, a Minari folder, a D4RL file or Parquet; checked, cut and
described."""
