"""Wrong: NaN for an answer that is no number."""


def reward(answer, reference):
    try:
        return float(float(answer) == float(reference["answer"]))
    except ValueError:
        return float("nan")
