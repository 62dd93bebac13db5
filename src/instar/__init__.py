"""Self-evolving training as a pipeline: a policy acts, is scored, learns, and chooses what to try next.

Importing this package loads nothing heavy; torch, transformers, mlflow and the rest are imported where they are used.
"""

__version__ = "0.1.0"
