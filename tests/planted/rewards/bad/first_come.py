"""Wrong: a right answer is paid only the first time, which depends on what was scored before."""

SEEN = set()


def reward(answer, reference, prompt):
    if answer.strip() != reference["answer"] or (prompt, answer) in SEEN:
        return 0.0
    SEEN.add((prompt, answer))
    return 1.0
