"""Good: a function that gets lists, each completion scored by itself."""


def reward(completions, answer, **columns):
    return [float(text.strip() == expected) for text, expected in zip(completions, answer, strict=True)]
