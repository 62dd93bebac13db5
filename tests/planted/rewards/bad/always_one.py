"""Wrong: every answer is right."""


def reward(answer, reference):
    return 1.0
