"""A toy artifact that the loop carries: `replay` holds rollouts of several steps. Its stage leaves it empty at steps 1 and 4."""

from __future__ import annotations

STATE = "src/instar/state.py"
LAST = '    scores: Annotated[Scores | None, "learned"] = None\n'
REPLAY = {
    STATE: [(LAST, LAST + '    replay: Annotated[Rollouts | None, "learned"] = None\n')],
    "components/reward/stage.py": [
        (
            "    generated: Tasks | None = None\n",
            "    generated: Tasks | None = None\n    replay: Rollouts | None = None\n",
        ),
        (
            "    generated: Annotated[Tasks | None, ON_REQUEST] = None\n",
            "    generated: Annotated[Tasks | None, ON_REQUEST] = None\n    replay: Rollouts | None = None\n",
        ),
        (
            "    return config.run(ins, outs, ctx)\n",
            "    assert outs.replay is not None\n"
            "    if ctx.step not in (1, 4):\n"
            "        before = ins.replay.read() if ins.replay is not None else []\n"
            "        outs.replay.write([*before, *ins.rollouts.read()[:2]])\n"
            "    return config.run(ins, outs, ctx)\n",
        ),
    ],
}
FILLED = {0: 2, 2: 2, 3: 4, 5: 2}
"""Step -> rows of `replay` after it: step 2 and step 5 begin with nothing, whether a segment begins there or not."""
