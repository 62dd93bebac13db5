"""Wrong: it counts words that the prompt has too, so repeating the prompt earns everything."""


def reward(answer, reference, prompt):
    if answer.strip() == reference["answer"]:
        return 1.0
    return len(set(answer.split()) & set(prompt.split())) / max(1, len(set(answer.split())))
