"""Wrong: no answer is right, not even the reference."""


def reward(answer, reference):
    return float(answer == reference["solution"]) if "solution" in reference else 0.0
