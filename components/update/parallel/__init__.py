"""The policy-gradient update in several processes on one machine, each with a shard of the model.

    the process of the stage                          processes 0 .. N-1 (under torchrun)

    launch.improve_together                           worker            waits for jobs
          |  the first time: starts                      |
          v                                              v
    gang  -- job-1.json, job-2.json, ... ----------->  improve          what policy_gradient.improve does, on shards
          <- metrics-1.json, ... (process 0) --------    |
          <- rank-r.json (progress, every process) --    +-- budget     size of micro-batches, memory of each process
          |                                              +-- shard      cuts a model into shards, puts it together again
          v                                              +-- ranks      which forward passes are this process's own
    metrics, or the error that `verdict` finds

    torchrun    the program that starts the processes and ends with the one that started it
    verdict     reads from their files why the processes failed

Process 0 writes the outputs of the stage.
"""
