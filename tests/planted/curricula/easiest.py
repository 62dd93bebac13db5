"""Good: every slot is drawn from arms that are solved less than half of the time, or from all."""

import math
import random


class Easiest:
    def __init__(self, arms):
        self.names = [arm["name"] for arm in arms]
        self.rates = dict.fromkeys(self.names, 0.0)

    def probabilities(self):
        weights = {name: 1.0 if self.rates[name] < 0.5 else 0.25 for name in self.names}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def select(self, num, seed):
        probabilities = self.probabilities()
        drawn = random.Random(seed).choices(self.names, weights=list(probabilities.values()), k=num)
        return [[name, probabilities[name]] for name in drawn]

    def observe(self, stats):
        for row in stats:
            if row["num_rollouts"]:
                self.rates[row["arm"]] = row["sum_correct"] / row["num_rollouts"]

    def state_dict(self):
        return {"rates": self.rates}

    def load_state_dict(self, state):
        if set(state) != {"rates"} or set(state["rates"]) != set(self.names):
            raise ValueError(f"not a complete state: {state}")
        self.rates = dict(state["rates"])

    def metrics(self):
        probabilities = self.probabilities()
        entropy = -sum(p * math.log(p) for p in probabilities.values())
        return {**{f"{name}/p": p for name, p in probabilities.items()}, "entropy": entropy}
