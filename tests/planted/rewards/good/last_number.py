"""Good: the last number of a text is the answer, so that a policy may think before it answers."""

import re


def reward(completion, reference):
    numbers = re.findall(r"-?\d+", completion[-1000:])
    return bool(numbers) and numbers[-1] == reference["answer"]
