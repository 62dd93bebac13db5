"""The command line: everything that only `instar ...` needs. It lies above all the rest, and nothing else imports it.

    instar.__main__ -> app, cluster_app            the commands and their options; loads typer and the standard library only
                         |
                         v  (each command imports what it needs)
    commands, show, compare, doctor, explain       what the commands of one machine do
    check, replay                                  is a reward sound; are results those of the ledger
    cluster, plan                                  what the commands of a cluster do
    resolve, progress                              a recipe from options and files; the lines that a run prints

Two commands are the entry points of containers and lie with what they start: `instar stage` in `instar.pipelines.stage_command`
and `instar control` in `instar.pipelines.chain.control_command`.
"""
