"""The reward of this example: a conversion is right if the number is."""


def reward(answer, reference):
    """Return whether the answer is the reference, apart from blanks around it."""
    return answer.strip() == reference["answer"]
