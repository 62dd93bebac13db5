"""Wrong: a regular expression with nested repetitions, which takes for ever on a long sum without an end."""

import re

SUM = re.compile(r"(\d+\s*\+?\s*)+=\s*(\d+)")


def reward(answer, reference):
    match = SUM.search(answer)
    return (match[2] if match else answer.strip()) == reference["answer"]
