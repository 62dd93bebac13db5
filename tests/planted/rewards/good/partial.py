"""Good: digits in the right place are paid in part; only the whole number is right."""


def reward(answer, reference):
    wanted, text = reference["answer"], answer.strip()
    if len(text) != len(wanted) or not text.isdigit():
        return {"correct": 0.0}
    share = sum(a == b for a, b in zip(text, wanted, strict=True)) / len(wanted)
    return {"correct": float(share == 1.0), "reward": share, "digits": share}
