"""The chain: an evolution on a cluster is one run after another, and each run executes one segment of the loop.

    submission --creates--> run of segment n
                              open       takes the fence; a second run of the same segment ends here      (segment, control_command)
                              stages     leave records in the store; see `instar.records`
                              gate       between two iterations of the segment, decides whether the next one happens
                              advance    writes the records to the ledger, moves the head, and calls submission for n + 1

    tick          looks at head and runs from time to time, and repairs a chain that broke
    generations   begins the next evolution when one is done, if it recurs
    pointers      the position of the loop, as the flat ports of `open` and `gate`
    gang/         many shards of one rollout as one job of the cluster instead of one task each

The rules need no lock server. Who may create a run is decided by an object that only one process can create, and who may commit
a segment by a compare-and-swap of the head (`instar.head`, `instar.fence`).
"""
