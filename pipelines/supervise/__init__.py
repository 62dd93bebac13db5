"""What keeps one process alive. It is started, watched, ended when it hangs, and started again if that can help.

pid1        `instar supervise -- COMMAND`: the first process of every container; starts COMMAND again after a transient error
  child     one attempt: a process group that gets signals and leaves nothing behind
watchdog    `instar run --mode subprocess`: runs a stage as a process of its own, with a deadline and a limit of silence
"""
