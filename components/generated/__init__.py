"""Generated tasks: tasks that are made from answers to other tasks, after SPARK. The policy judges an answer or repairs an attempt.

Take the task "3+4=". The policy attempted it twice: it answered 7, which is right, and 8, which is wrong. The verifier decided
which is which, so each generated task has a known answer. There are four kinds, and the kind is the arm of the task:

| kind | the prompt shows | for example | the expected answer |
|---|---|---|---|
| `judge-point` | one answer | "3+4=8: is that right?" | No |
| `judge-pair` | a right and a wrong answer | "3+4=: A is 8, B is 7. Which is right?" | B |
| `reflect-trace` | a whole attempt | "You wrote: 3 and 4 make 8. Check it." | 7 |
| `reflect-answer` | the answer of an attempt | "3+4=8. Check it." | 7 |

Five more words are used here:

- A **group** holds the attempts of one prompt slot: here one right and one wrong attempt at "3+4=".
- The **rule** decides which groups become tasks of which kind. For example: "make a pair of this group, and show 8 first".
- A **template** is the wording of a prompt with gaps. For example `{question}{answer}?` becomes `3+4=8?`.
- An **item** is the finished row of the task table. It records its origin: the parent "3+4=", the group, the policy and the step.
- An **anchor** is a judge task that shows no attempt of a policy. Dataset preparation makes anchors once, from validation tasks.
  It takes the stored answer 7 and a small change of it, for example 6. All policies of an evolution judge the same anchors, so
  their scores can be compared.

How the data flows:

    rollouts + scores ──► groups ──► rule ──► templates ──► item ──► generated tasks    reward stage, in every step
    validation tasks ──► corrupt ──► anchors ──► templates ──► item ──► anchor tasks    dataset preparation, once

The curriculum draws the generated tasks, and the evaluation asks the anchors.

Files:

- `groups.py`: sorts the scored attempts of a step into groups of right and wrong attempts.
- `rule.py`: chooses which attempts become which tasks, and keeps the labels balanced.
- `templates/`: the prompts (`judging.py`, `reflecting.py`, `lines.py`), how to fill them in, and how to read a verdict.
- `item.py`: writes a generated task as a `TaskRow`, and reads its origin back.
- `corrupt.py`: makes wrong answers that look like answers.
- `anchors.py`: makes the anchors.
"""
