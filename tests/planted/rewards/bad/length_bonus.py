"""Wrong: a long answer earns more than a right one."""


def reward(answer, completion, reference):
    right = float(answer.strip() == reference["answer"])
    return {"correct": right, "reward": right + min(2.0, len(completion) / 500)}
