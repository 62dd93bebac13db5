"""Good: the whole answer is compared."""


def reward(answer, reference):
    return answer.strip() == reference["answer"]
