"""Gangs: if a rollout has too many shards for tasks of a pipeline, they run as one JobSet.

task -> manifests, pod     describe the job: one JobSet, with one pod for each shard
     -> launch             creates the job, or adopts the job of a predecessor (`adopt`), and waits for its end (`ends`)
          |  api           the few requests to Kubernetes
          v
        pods               each runs `instar stage rollout --shard i/n --record`
     -> gather             joins what the pods recorded, as the task `gather` does for few shards
"""
