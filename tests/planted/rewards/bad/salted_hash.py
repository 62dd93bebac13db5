"""Wrong: hash() of a text differs in every process."""


def reward(answer, reference):
    right = answer.strip() == reference["answer"]
    return {"correct": float(right), "reward": float(right) - (hash(answer) % 100) / 1000}
