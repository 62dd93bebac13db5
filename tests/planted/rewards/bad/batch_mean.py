"""Wrong: the score is relative to the other completions of the batch."""


def reward(completions, answer, **columns):
    right = [float(text.strip() == expected) for text, expected in zip(completions, answer, strict=True)]
    mean = sum(right) / len(right)
    return [max(0.0, value - mean) for value in right]
