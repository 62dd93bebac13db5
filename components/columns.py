"""What a strategy reads and writes, as `artifact.column`: the vocabulary in which a recipe either closes or is refused.

The configuration of every strategy derives from `Piece` and names both. `instar.pipelines.composition` puts them together.
"""

from __future__ import annotations

from typing import ClassVar


class Piece:
    """A strategy's configuration. A column counts as provided only when it carries information, not when it merely exists."""

    __slots__ = ()
    REQUIRES: ClassVar[frozenset[str]] = frozenset()
    PROVIDES: ClassVar[frozenset[str]] = frozenset()

    def requires(self) -> frozenset[str]:
        """Return the columns this configuration reads."""
        return self.REQUIRES

    def provides(self) -> frozenset[str]:
        """Return the columns this configuration fills."""
        return self.PROVIDES
