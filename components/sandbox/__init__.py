"""Runs code that a user brought, for example a reward function, in a process of its own that can do little else.

    host process                                sandbox process
    Sandbox.calls(entry, rows)  -- rows -->     child: imports the file, calls the function once per row
       results or faults        <-- lines --    confine: limits, a filter of system calls, rules for files

config       the limits of one call, and what is allowed beyond them
code_folder  a read-only copy of the user's files, checked against their digests, and their wheels
sandbox      the host side: starts the process, sends rows, notices a fault, and starts a new process
worker       one such process, with its channel and its limits of time
child        the script that runs in the process; it imports the standard library only
confine      what the process gives up before it imports a file of the user
"""
