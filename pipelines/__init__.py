"""The loop, what it is made from, and everything that runs it.

    recipes/ -> recipe            one frozen value: six stage configurations, the shape of the loop, the gate
                  |
                  v
    evolution                     the loop, written once against stage handles; `gate` decides after every iteration
                  |
        +---------+---------+------------------+
        v                   v                  v
    local               trace              replay
    runs the stages     writes down the    takes results that are
    in this process     graph of nodes     recorded already
                            |
             +--------------+--------------+
             v                             v
    kubeflow -> containers/            argo
    a package per segment, run         the whole loop as one
    by Kubeflow or on one machine      recursive workflow

    chain/        what makes runs on a cluster execute the loop exactly once
    supervise/    what keeps one process alive, and ends it when it hangs
    fit/, cost/   what fits on a named device, and what a plan costs before it is submitted

When a recipe is built, `composition` checks that its pieces fit together. Before it runs, `preflight` checks that the machine has
what it needs. `stage_command` is what the container of a stage executes.
"""
