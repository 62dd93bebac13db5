"""Gangs: the shards of one rollout as one JobSet, where they are too many for tasks of a pipeline.

task -> manifests, pod     what is asked of the cluster: one job, one pod for each shard
     -> launch             creates the job or adopts the one of a predecessor (`adopt`), and waits for its end (`ends`)
          |  api           the few requests to Kubernetes
          v
        pods               each runs `instar stage rollout --shard i/n --record`
     -> gather             joins what the pods recorded, as the task `gather` would
"""
