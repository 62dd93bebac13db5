"""Wrong: the score depends on the hour, so equal answers get other scores tomorrow."""

from datetime import datetime


def reward(answer, reference):
    right = answer.strip() == reference["answer"]
    return 1.0 if right and datetime.now().hour >= 0 else 0.0
