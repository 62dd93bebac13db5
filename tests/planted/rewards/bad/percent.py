"""Wrong: from 0 to 100 instead of 0 to 1, so there is no share of right answers."""


def reward(answer, reference):
    return 100.0 * (answer.strip() == reference["answer"])
