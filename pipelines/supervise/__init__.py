"""What keeps one process alive: it is started, watched, ended when it hangs, and started again where that can help.

pid1        `instar supervise -- COMMAND`: the first process of every container; starts COMMAND again after a transient end
  child     one attempt: a process group that gets signals and leaves nothing behind
watchdog    `instar run --mode subprocess`: a stage as a process of its own, with a deadline and a limit of silence
"""
