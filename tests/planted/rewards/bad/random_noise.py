"""Wrong: noise that nobody seeded is added to the score."""

import random


def reward(answer, reference):
    return float(answer.strip() == reference["answer"]) * random.uniform(0.9, 1.0)
