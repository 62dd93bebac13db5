"""Compiled pipelines run in containers on one machine: `ir` reads them, `run` executes one, `chain` a whole evolution."""
