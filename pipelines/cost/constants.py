"""Every number that a plan is computed from, with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Seconds, GB/s and bytes. Each line says whether the number is published, measured or assumed. Replace assumed numbers by
    yours.

    Measured numbers are from two CPU cores of an AMD EPYC, with the recipe `sec` at `tiny`.
    """

    driver_s: float = 5.0  # assumed: one plain pod; Kubernetes' objective is p99 <= 5 s to start one
    executor_s: float = 10.0  # assumed: a pod with two init containers and a sidecar, images present
    engine_warm_s: float = 82.0  # published: vLLM, Llama-3.1-8B, L40S, model and compile caches warm (tensorfuse)
    engine_cold_s: float = 294.0  # published: the same, nothing cached
    trainer_s: float = 45.0  # assumed: process start, NCCL, shards to the GPUs
    imports_s: float = 8.0  # measured: `import torch, transformers`, 7.7 to 9.2 s; the start of a CPU stage
    node_gb_s: float = 2.0  # assumed: parallel ranged reads of one node (Run:ai streamer published about that)
    store_gb_s: float = 10.0  # assumed: the whole store
    hash_gb_s: float = 1.8  # measured: SHA-256, one thread with SHA instructions, 1.78
    hashes_pulled: int = 1  # counted in the code: a file is hashed when it leaves the store
    hashes_pushed: int = 2  # counted: once to name the output, once to store it
    gpus_per_node: int = 8  # assumed

    base_bytes: float = 2.0  # per parameter: a bfloat16 checkpoint
    policy_bytes: float = 2.0  # per parameter: what an update in bfloat16 computes with and publishes
    master_bytes: float = 4.0  # per parameter: float32 weights, in the trainer state when the policy is rounded
    moment_bytes: float = 8.0  # per parameter: two float32 moments
    rollout_bytes: float = 5.3  # per token: ids and log-probabilities in Parquet; measured on 4.14 M synthetic tokens
    answer_bytes: float = 2.0  # per token of an evaluated answer; measured 0.3 to 0.7 per character, 4 of them assumed
    score_bytes: float = 9.0  # per rollout; measured
    slot_bytes: float = 44.0  # per prompt of a batch; measured
    task_bytes: float = 54.0  # per task; measured
    empty_bytes: float = 5.3e3  # a table of trajectories without rows; measured
    small_bytes: float = 100e3  # curriculum, statistics, history, reports: 3 to 104 kB; measured
    record_bytes: float = 14e3  # a ledger entry: 0.4 to 13.8 kB; measured
    pointer_bytes: float = 100.0  # the file that the pipeline moves instead of an artifact

    rollout_tokens_per_s: float = 5000.0  # assumed: one GPU, 8B; other sizes in inverse proportion
    answer_tokens_per_s: float = 100.0  # assumed: one answer, 8B: the longest answer bounds a rollout from below
    length_share: float = 0.5  # assumed: mean answer length over max_new_tokens
    flops: float = 989e12  # published: H100, bfloat16, dense (NVIDIA's data sheet)
    mfu: float = 0.35  # assumed: share of it that an update reaches
