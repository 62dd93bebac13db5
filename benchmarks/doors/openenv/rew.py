from openenv.core import GenericEnvClient


def reward(completions, answer, **kwargs):
    with GenericEnvClient(base_url="http://localhost:8000").sync() as env:
        return [score(env, text, right) for text, right in zip(completions, answer, strict=True)]


def score(env, text, right):
    env.reset(right=right)
    return env.step({"text": text}).reward
