"""Wrong: it forgets to return a value where the answer is right."""


def reward(answer, reference):
    if answer.strip() != reference["answer"]:
        return 0.0
