"""Wrong: the score depends on a file that earlier calls have written."""

from pathlib import Path

COUNT = Path("count.txt")


def reward(answer, reference):
    calls = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
    COUNT.write_text(str(calls))
    return float(answer.strip() == reference["answer"]) if calls % 7 else 1.0
