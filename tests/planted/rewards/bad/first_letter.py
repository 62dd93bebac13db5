"""Wrong: only the first character is compared, so one character is right for many tasks."""


def reward(answer, reference):
    return answer.strip()[:1] == reference["answer"][:1]
