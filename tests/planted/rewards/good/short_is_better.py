"""Good: long completions cost a little, and a right one still earns most."""


def reward(answer, completion, reference):
    right = float(answer.strip() == reference["answer"])
    return {"correct": right, "reward": right - min(0.2, len(completion) / 10_000)}
