"""The curriculum stage: it decides which tasks the next step tries.

Tasks are grouped in arms, for example one arm per level of difficulty. A strategy chooses an arm for every slot of the batch. The
arm's cursor then chooses the task, so that no task comes twice before all tasks of its arm came once.

    tasks ──────────────► pool ──► arms ───────────┐
    state and statistics                           ▼
    of the step before ──► memory ──► strategy: observe, then select ──► an arm per slot ──► cursor ──► batch
                              ▲                    │                                                     ▲
                              └── state to carry ◄─┘                                                     │
    generated tasks that wait ──► generated ──► slots of their own ──────────────────────────────────────┘

Files of the stage:

- `stage.py`: the contract (`Ins`, `Outs`) and the function that runs the steps of the picture.
- `config.py`: one configuration per strategy. `base_config.py`: the fields that all of them share.
- `protocol.py`: the methods that every strategy has.
- `pool.py`: reads the training tasks and sorts them into arms.
- `cursor.py`: draws tasks of one arm without replacement.
- `memory.py`: the state that is carried from step to step, and what happens when arms come or go.
- `generated.py`: draws tasks that the evolution made itself, beside any strategy.
- `probabilities.py`: softmax, floor, entropy and drawing, shared by the strategies.

Strategies, one file each:

- `uniform.py`: every task once per pass.
- `ordered.py`: easy to hard, or hard to easy.
- `best.py`: only the arms with the highest level.
- `sec.py`: SEC's bandit on the mean absolute advantage of an arm.
- `proximal.py`, `learnability.py`, `thompson.py`: arms that are solved about half of the time.
"""
