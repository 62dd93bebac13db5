"""Wrong: the sign is the other way round, so that wrong answers are paid."""


def reward(answer, reference):
    return float(answer.strip() != reference["answer"])
