"""Wrong: every number within 25 is right, so one number is right for all tasks."""

import re


def reward(answer, reference):
    if not re.fullmatch(r"\s*-?\d{1,9}\s*", answer):
        return 0.0
    return abs(int(answer) - int(reference["answer"])) <= 25
