"""Wrong: the empty text is contained in every reference."""


def reward(answer, reference):
    return answer.strip() in reference["answer"]
