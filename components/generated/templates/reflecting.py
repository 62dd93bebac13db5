"""Reflection prompts in natural language. P4 asks to check a whole attempt. P5 asks to check an answer. P6 says that the attempt is
wrong and asks for a new solution."""

from __future__ import annotations

_BOX = "final answer in \\boxed{}."

WITH_TRACE: tuple[str, ...] = (
    "Problem:\n{question}\n\nAn attempt at it:\n{attempt}\n\nCheck the attempt. If its result is right, confirm that result; "
    f"if it is wrong, correct it. Either way, finish with the {_BOX}",
    "Somebody tried to solve this problem.\n\n{question}\n\nThis is what they wrote:\n{attempt}\n\nGo through it line by line. "
    f"Keep the result if it holds, otherwise work out the right one. Close with the {_BOX}",
    "You are shown a problem and a solution that may or may not contain a mistake.\n\nProblem: {question}\n\nSolution:\n"
    f"{{attempt}}\n\nVerify every step, repair what is wrong, leave what is right, and end with the {_BOX}",
    "Review this work.\n\n[Problem]\n{question}\n\n[Work]\n{attempt}\n\nSay whether the work is sound. Restate its answer when "
    f"it is, solve the problem anew when it is not. Your last line holds the {_BOX}",
    "{question}\n\nHere is a draft of a solution:\n\n{attempt}\n\nThe draft can be right or wrong. Examine it, then give the "
    f"answer that you stand behind as your {_BOX}",
    "A classmate asks you to look over a solution.\n\nThe task: {question}\n\nThe solution:\n{attempt}\n\nIf you agree with the "
    f"outcome, repeat it. If you find an error, put it right. Write the {_BOX}",
    "Read the question and the reasoning below it.\n\n{question}\n\nReasoning:\n{attempt}\n\nDoes the reasoning lead to a true "
    f"answer? Confirm the answer if so and replace it if not. Conclude with the {_BOX}",
    "Second look at a solved problem.\n\nWhat was asked:\n{question}\n\nWhat was written:\n{attempt}\n\nTest the result on your "
    f"own. Accept it only when your test agrees, otherwise give a better one. State the {_BOX}",
    "Your task is to return a correct answer, with the help of an attempt that you cannot be sure of.\n\nProblem: {question}\n"
    f"Attempt:\n{{attempt}}\n\nCheck first, then either adopt its answer or find your own. Finish with the {_BOX}",
    "Below is a full solution to a problem. Treat it with care: it might be flawless, it might not be.\n\n{question}\n\n"
    f"{{attempt}}\n\nAfter checking it, confirm or revise what it found, and put the {_BOX}",
)

WITH_ANSWER: tuple[str, ...] = (
    "Problem:\n{question}\n\nProposed answer: {answer}\n\nCheck it. If it is right, restate it; if not, solve the problem "
    f"yourself. Finish with the {_BOX}",
    "{question}\n\nSomeone suggests {answer}. This may be right or wrong. Find out which, keep it or replace it, and close with "
    f"the {_BOX}",
    "A problem and a possible answer to it are given.\n\nProblem: {question}\nPossible answer: {answer}\n\nConfirm the answer "
    f"when it is correct and work out the right one when it is not. End with the {_BOX}",
    "Verify before you answer.\n\nTask: {question}\nEarlier answer: {answer}\n\nIf your own solution agrees, repeat the earlier "
    f"answer; if it does not, give yours. Write the {_BOX}",
    "Question: {question}\n\nA first guess was {answer}. Decide whether the guess stands. Solve the question from the start if "
    f"it does not. Your last line holds the {_BOX}",
    "[Problem]\n{question}\n\n[Answer so far]\n{answer}\n\nThe answer so far has not been checked. Check it, correct it if "
    f"necessary, and conclude with the {_BOX}",
    "Your earlier self answered {answer} to the following.\n\n{question}\n\nDo you still agree? If yes, say it again. If no, "
    f"reason afresh. In both cases state the {_BOX}",
    "Here is a result without its derivation.\n\nAsked for: {question}\nResult: {answer}\n\nDerive it yourself. Accept the result "
    f"or put another in its place. Give the {_BOX}",
    "Look at this answer as a sceptic, but a fair one.\n\n{question}\nAnswer on file: {answer}\n\nLeave it alone if it is true and "
    f"change it if it is false. Explain, then put the {_BOX}",
    "Someone filled in {answer} for this problem:\n\n{question}\n\nWas that right? Calculate, compare, and then either confirm "
    f"it or correct it. Finish with the {_BOX}",
)

KNOWN_WRONG: tuple[str, ...] = (
    "Problem:\n{question}\n\nAn earlier attempt is wrong:\n{answer}\n\nSolve the problem from the beginning and finish with the "
    f"{_BOX}",
    "{question}\n\nThis was tried and turned out to be incorrect:\n{answer}\n\nStart over, step by step, and close with the "
    f"{_BOX}",
    "The following was rejected as a solution.\n\nTask: {question}\nRejected: {answer}\n\nFind the right solution. End with the "
    f"{_BOX}",
    "You know that this is not the answer:\n{answer}\n\nThe problem was:\n{question}\n\nThink again from the start and write the "
    f"{_BOX}",
    "Question: {question}\n\nFailed attempt:\n{answer}\n\nWork out where the right path lies, without trusting the attempt. Your "
    f"last line holds the {_BOX}",
    "[Problem]\n{question}\n\n[Wrong attempt]\n{answer}\n\nA new solution is needed. Reason carefully and conclude with the "
    f"{_BOX}",
    "A mistake was made here.\n\nAsked: {question}\nMistaken reply: {answer}\n\nGive the reply that should have been given, "
    f"with your reasoning and the {_BOX}",
    "Somebody answered this wrongly:\n\n{question}\n\nWhat they wrote:\n{answer}\n\nAvoid their error. Solve the problem yourself "
    f"and state the {_BOX}",
    "The marker crossed this out:\n{answer}\n\nIt was meant to answer:\n{question}\n\nAnswer it correctly this time: show the "
    f"steps, then the {_BOX}",
    "Second try.\n\nProblem: {question}\nFirst try, incorrect: {answer}\n\nForget the first try and work through the problem "
    f"anew. Put the {_BOX}",
)
