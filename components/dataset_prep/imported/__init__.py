"""Imports a user's own rows: files of prompts with answers become the task pools of an evolution.

    file or folder ──► parts (one per file) ──► rows ──► columns ──► prompt, answer, arm, level, split
                        source.py, one module     columns.py   cells.py     │
                        for each format                                     ▼ spool.py: spilled to disk by hash of the prompt
                                  rows.parquet ◄── arms.py, splits.py ◄── duplicates.py, one bucket after the other
                                  import.json

Nothing is held whole in memory. The first pass reads every row, checks it, and spills it into the bucket of its hash. All rows
with one prompt are in one bucket, so the second pass finds duplicates bucket by bucket.

- `importer.py`: the two passes. `import_tasks` is the only function that other code needs.
- `source.py`: which files there are, which format each has, and which split its name says.
- `jsonl.py`, `csv_file.py`, `parquet.py`, `arrow_stream.py`, `hub.py`, `harbor.py`: one format each.
- `pools.py`: what dataset preparation does with the imported folder.
- `probe.py`: levels from the solve rate of the initial policy, for rows that have no level of their own.
"""
