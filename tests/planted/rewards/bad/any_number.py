"""Wrong: any number in the answer that is the reference counts, so `3 or 4` is right for both."""

import re


def reward(answer, reference):
    return reference["answer"] in re.findall(r"\d+", answer)
