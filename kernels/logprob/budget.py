"""How much of the logits exists at once when the caller does not say. Plans read it without loading torch."""

from __future__ import annotations

CHUNK_LOGITS = 2**21
"""Logits of one tile: 8 MiB in float32, two such buffers at the peak."""
SLICE_BYTES = 2**25
"""Size of the slice of the logits' gradient that the Triton backward holds."""
