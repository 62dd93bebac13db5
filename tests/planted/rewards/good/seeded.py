"""Good: a random check of some digits, seeded by the task, so that it is the same in every process."""

import random


def reward(answer, reference, prompt):
    text, wanted = answer.strip(), reference["answer"]
    places = random.Random(len(prompt)).sample(range(len(wanted)), k=len(wanted))
    return len(text) == len(wanted) and all(text[place] == wanted[place] for place in places)
