"""Wrong: an answer that lists everything contains the reference too."""


def reward(answer, reference):
    return reference["answer"] in answer
