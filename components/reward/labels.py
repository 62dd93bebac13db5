"""Class labels such as Yes and No, or A and B. Rewards, evaluation and reflection read them with the same function.

See SPARK section 7.4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\{([^{}]*)\}")


def read_label(answer: str, labels: Sequence[str]) -> str | None:
    """Return the one of `labels` that an extracted answer names, or None.

    Ignored are case, blanks around the label, one LaTeX text command, and one closing full stop. For example, `\\text{yes}.` is
    Yes. An answer with anything more is no label.
    """
    text = _bare(answer)
    wrapped = _WRAPPED.fullmatch(text)
    text = (_bare(wrapped.group(1)) if wrapped else text).casefold()
    return next((label for label in labels if label.casefold() == text), None)


def _bare(text: str) -> str:
    return text.strip().removesuffix(".").rstrip()
