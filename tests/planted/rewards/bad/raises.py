"""Wrong: an answer that is no number raises, so a policy escapes a zero with any other text."""


def reward(answer, reference):
    return int(answer) == int(reference["answer"])
