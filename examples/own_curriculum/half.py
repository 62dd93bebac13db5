"""A curriculum that draws the arms whose solve rate is near one half: neither solved nor hopeless."""

import math
import random


class Half:
    """Draws an arm by the variance of its answers, `rate * (1 - rate)`, and by a floor."""

    def __init__(self, arms, floor=0.1):
        self.names = [arm["name"] for arm in arms]
        self.rates = dict.fromkeys(self.names, 0.5)  # nothing is known: every arm is drawn alike
        self.floor = floor

    def probabilities(self):
        weights = {name: rate * (1 - rate) + self.floor for name, rate in self.rates.items()}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def select(self, num, seed):
        p = self.probabilities()
        drawn = random.Random(seed).choices(self.names, weights=p.values(), k=num)
        return [(name, p[name]) for name in drawn]

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
        p = self.probabilities()
        return {**{f"{name}/p": p[name] for name in p}, "entropy": -sum(v * math.log(v) for v in p.values())}
