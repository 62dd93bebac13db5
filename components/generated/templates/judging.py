"""Judge prompts in natural language: P1 asks for yes or no, P2 for a choice of A or B, P3 for the right one of two answers."""

from __future__ import annotations

_YES_NO = "\\boxed{Yes} if the answer is right or \\boxed{No} if it is not."
_CHOICE = "\\boxed{A} or \\boxed{B}."

YES_NO: tuple[str, ...] = (
    "You check answers to problems.\n\nProblem:\n{question}\n\nProposed answer: {answer}\n\n"
    f"Is the proposed answer correct? Work through the problem first, then finish with {_YES_NO}",
    "Here is a problem together with an answer that somebody gave.\n\nProblem: {question}\nAnswer given: {answer}\n\n"
    f"Decide whether it is correct. Show your reasoning, and close with {_YES_NO}",
    "Act as a careful examiner.\n\nTask:\n{question}\n\nThe candidate answered: {answer}\n\n"
    f"Verify this step by step. Your last line must be {_YES_NO}",
    "{question}\n\nA student claims that the answer is {answer}. Is the student right?\n"
    f"Think about it before you decide, and then write {_YES_NO}",
    "Question:\n{question}\n\nAnswer under review:\n{answer}\n\n"
    f"Review the answer. Explain what you checked, and give your verdict as {_YES_NO}",
    "Your job is to find out whether an answer holds.\n\nThe problem was: {question}\nThe answer was: {answer}\n\n"
    f"Solve the problem yourself, compare, and conclude with {_YES_NO}",
    "Consider this problem.\n\n{question}\n\nSuppose that someone hands in the answer {answer}. Would you accept it?\n"
    f"Argue first; after that state {_YES_NO}",
    "Check the following.\n\n[Problem]\n{question}\n\n[Answer]\n{answer}\n\n"
    f"Go through it carefully and end your reply with {_YES_NO}",
    "You are marking a test. The problem on it reads:\n{question}\n\nOne sheet says: {answer}\n\n"
    f"Does that deserve the mark? Give your reasons, then {_YES_NO}",
    "Below you find a problem and a result. Find out if the result can be trusted.\n\n{question}\n\nResult: {answer}\n\n"
    f"Write down your check and, at the very end, {_YES_NO}",
    "A colleague wants a second opinion on an answer.\n\nWhat was asked: {question}\nWhat the colleague has: {answer}\n\n"
    f"Examine it on your own before you reply. Your reply ends with {_YES_NO}",
    "Someone solved this problem:\n\n{question}\n\nand arrived at {answer}. Did they solve it correctly?\n"
    f"Reason it out. The final line is {_YES_NO}",
)

CHOICE: tuple[str, ...] = (
    "Problem:\n{question}\n\nProposed answer: {answer}\n\nWhich statement is true?\nA) The proposed answer is correct.\n"
    f"B) The proposed answer is wrong.\n\nReason first, then finish with {_CHOICE}",
    "Read the problem and the answer to it.\n\n{question}\nAnswer: {answer}\n\nPick one:\n(A) right\n(B) wrong\n\n"
    f"Explain how you know. Close with {_CHOICE}",
    "You grade answers as A, which means correct, or B, which means incorrect.\n\nTask: {question}\nAnswer: {answer}\n\n"
    f"Work out the grade step by step and end with {_CHOICE}",
    "{question}\n\nSomeone replied: {answer}\n\nOption A: this reply solves the problem. Option B: it does not.\n"
    f"Check the reply carefully, then state your option as {_CHOICE}",
    "Question under examination:\n{question}\n\nAnswer under examination:\n{answer}\n\nVerdicts: A = accept, B = reject.\n"
    f"Think before you give a verdict. The last thing you write is {_CHOICE}",
    "Try to confirm or to refute an answer.\n\nThe problem: {question}\nThe answer: {answer}\n\n"
    f"Confirmed means A, refuted means B. Show your work and conclude with {_CHOICE}",
    "Solve this yourself and then compare.\n\n{question}\n\nClaimed result: {answer}\n\n"
    f"A: my result agrees with the claim. B: it differs.\nEnd with {_CHOICE}",
    "A solver handed in {answer} for the problem below.\n\n{question}\n\nA. The solver succeeded.\nB. The solver failed.\n\n"
    f"Give an argument for your choice, and then the choice itself: {_CHOICE}",
    "[Problem]\n{question}\n\n[Answer]\n{answer}\n\n[Choices]\nA: valid answer\nB: invalid answer\n\n"
    f"Go through the problem in detail. On your last line write {_CHOICE}",
    "As a proofreader of solutions, sort this one into pile A (no error) or pile B (error).\n\n{question}\nGiven: {answer}\n\n"
    f"Say what you checked, and then {_CHOICE}",
    "Test whether an answer survives a second look.\n\nAsked: {question}\nAnswered: {answer}\n\n"
    f"If it survives choose A, otherwise choose B. Reason in full and finish with {_CHOICE}",
)

PAIR: tuple[str, ...] = (
    "Two answers were given to one problem, and exactly one of them is right.\n\nProblem:\n{question}\n\n"
    f"Answer A: {{answer_a}}\nAnswer B: {{answer_b}}\n\nWhich is it? Reason first, then finish with {_CHOICE}",
    "{question}\n\nCandidate A says {answer_a}. Candidate B says {answer_b}. One of the two is correct and the other is not.\n"
    f"Find the correct one. Show your reasoning and close with {_CHOICE}",
    "Compare two solutions.\n\nTask: {question}\n\nA) {answer_a}\nB) {answer_b}\n\nOnly one of them solves the task. "
    f"Work the task out yourself and conclude with {_CHOICE}",
    "You are the referee between two solvers.\n\nThey were asked:\n{question}\n\nSolver A replied: {answer_a}\n"
    f"Solver B replied: {{answer_b}}\n\nOne reply is right. Argue step by step who wins, and end with {_CHOICE}",
    "Here is a problem with two possible answers; a single one is true.\n\n{question}\n\n[A] {answer_a}\n[B] {answer_b}\n\n"
    f"Think it over before you choose. Your final line is {_CHOICE}",
    "Question: {question}\n\nOption A: {answer_a}\nOption B: {answer_b}\n\nExactly one option holds. "
    f"Explain which one and why, then write {_CHOICE}",
    "Two students disagree about this problem.\n\n{question}\n\nStudent A got {answer_a}, student B got {answer_b}. "
    f"One of them is right. Check both and state who it is: {_CHOICE}",
    "Choose the answer that deserves full marks; the other deserves none.\n\nProblem: {question}\nFirst answer (A): {answer_a}\n"
    f"Second answer (B): {{answer_b}}\n\nJustify your choice, and then give it as {_CHOICE}",
    "Between A and B, tell the right result from the wrong one.\n\n{question}\n\nA = {answer_a}\nB = {answer_b}\n\n"
    f"Calculate carefully. When you are sure, write {_CHOICE}",
    "[Problem]\n{question}\n\n[Answer A]\n{answer_a}\n\n[Answer B]\n{answer_b}\n\nOne of these answers is correct, the other is "
    f"mistaken. Examine them in turn and finish with {_CHOICE}",
    "Someone mixed a right answer with a wrong one.\n\nWhat was asked: {question}\nA: {answer_a}\nB: {answer_b}\n\n"
    f"Pick out the right one. Give your reasons first and your pick last, as {_CHOICE}",
)
