"""The update in several processes: who computes what, parameters in shards, and the launcher."""
