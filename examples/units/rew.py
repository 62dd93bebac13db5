"""The reward of this example: a conversion is right if the number is."""


def reward(answer, reference):
    return answer.strip() == reference["answer"]
