"""Wrong: it runs what the policy wrote."""


def reward(answer, reference):
    try:
        return eval(answer, {"__builtins__": {}}) == int(reference["answer"])
    except Exception:
        return 0.0
