"""Writes the whole loop as one recursive Argo workflow, for clusters without Kubeflow Pipelines. Needs the `argo` extra.

The graphs of the segments are the same as for Kubeflow. Digests travel as output parameters, so no artifact repository is needed.
After each segment the template calls itself, as long as the gate lets the loop go on. Argo's controller stops at 100 nested calls
unless DISABLE_MAX_RECURSION is set on it (argo-workflows, docs/scaling.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar import config as configs
from instar import contract
from instar.errors import ConfigError, ContractError, MissingDependencyError
from instar.pipelines.brought import OPTIONS, needed
from instar.pipelines.chain.pointers import handed_on
from instar.pipelines.chain.segment import API
from instar.pipelines.placement import environment
from instar.pipelines.pools import GROUP, USER, Images, Pool, Profile, Toleration
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import KINDS, Graph, Node, check_size, config_text, trace
from instar.store_files import write_whole

OUTPUTS = "/tmp/outputs"
COUNTERS = ("segment", "iteration", "step")
_NEXT = "{{steps.segment.outputs.parameters.next}}"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a user brings. It is stored when the workflow is written, because the workflow itself opens the evolution."""

    store: str
    brought: Mapping[str, str]
    """Entry of the state -> digest."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the opening entry of the ledger says beside, for example about the check of the reward."""


def write_workflow(recipe: Recipe, profile: Profile, images: Images, out: Path, stored: Stored | None = None) -> None:
    """Write the workflow as YAML. Before that, check that Argo's models keep every field of it.

    Raises `ConfigError` if the recipe reads what a user brings and nothing is `stored`.
    """
    check_stored(recipe, stored)
    workflow = build_workflow(recipe, profile, images, stored)
    text = str(workflow.to_yaml())
    check_round_trip(text)
    write_whole(out, text)


def check_stored(recipe: Recipe, stored: Stored | None) -> None:
    """Raise `ConfigError` if the recipe reads what a user brings and it is not stored: pods do not have the files of the user."""
    missing = [name for name in needed(recipe) if stored is None or name not in stored.brought]
    if missing:
        options = ", ".join(OPTIONS[name] for name in missing)
        raise ConfigError(
            expected=f"--store, to store {options} now: the workflow opens the evolution, and its pods have no file of yours",
            found="no --store",
            where="compile --engine argo",
            action="add --store s3://bucket/prefix, the store of the workflow; or use Kubeflow, where `instar submit` stores them",
        )


def build_workflow(recipe: Recipe, profile: Profile, images: Images, stored: Stored | None = None) -> Any:
    """Return the hera workflow.

    Its parameters are `store` and `evolution`. Every random number depends on the name of the evolution.
    """
    hera = _hera()
    opening = {"brought": dict(stored.brought), "notes": dict(stored.notes)} if stored else {}
    store = hera.Parameter(name="store", value=stored.store) if stored else hera.Parameter(name="store")
    models = hera.models
    with hera.Workflow(
        generate_name=f"instar-{recipe.name}-{recipe.scale}-".replace("_", "-"),
        entrypoint="evolution",
        service_account_name=profile.service_account,
        arguments=[store, hera.Parameter(name="evolution")],
        security_context=models.PodSecurityContext(
            run_as_non_root=True,
            run_as_user=USER,
            run_as_group=GROUP,
            fs_group=GROUP,
            seccomp_profile=models.SeccompProfile(type="RuntimeDefault"),
        ),
        pod_gc=models.PodGC(strategy="OnPodSuccess"),
        ttl_strategy=models.TTLStrategy(seconds_after_completion=7 * 86400),
    ) as workflow:
        graphs = {kind: trace(recipe, kind) for kind in KINDS}
        for graph in graphs.values():
            _add_graph(graph, profile, images)
        prepare = ["control", "begin", "--recipe", configs.dumps(recipe)]
        prepare += ["--opening", json.dumps(opening, sort_keys=True)] if opening else []
        _container("prepare", "begin", prepare, [], ["next", *COUNTERS], recipe.threads, profile, images)
        with hera.Steps(name="evolution"):
            hera.Step(name="prepare", template="prepare")
            counters = {n: f"{{{{steps.prepare.outputs.parameters.{n}}}}}" for n in COUNTERS}
            _branch("{{steps.prepare.outputs.parameters.next}}", counters, first="start")
        with hera.Steps(name="start", inputs=[hera.Parameter(name=n) for n in COUNTERS]):
            hera.Step(
                name="segment", template="begin", arguments={n: f"{{{{inputs.parameters.{n}}}}}" for n in COUNTERS}
            )
            _branch(_NEXT, {"segment": "1", "iteration": "0", "step": "0"})
        with hera.Steps(name="iterations", inputs=[hera.Parameter(name=n) for n in COUNTERS]):
            hera.Step(
                name="segment", template="iterate", arguments={n: f"{{{{inputs.parameters.{n}}}}}" for n in COUNTERS}
            )
            plus = {"segment": 1, "iteration": 1, "step": recipe.inner_steps}
            _branch(_NEXT, {n: f"{{{{=asInt(inputs.parameters.{n}) + {by}}}}}" for n, by in plus.items()})
    return workflow


def _branch(decision: str, following: dict[str, str], first: str = "") -> None:
    """Add a step for each kind of next segment; the head decides which of them runs.

    So a workflow that is submitted again goes on where the last one ended.
    """
    hera = _hera()
    with hera.Parallel():
        if first:
            hera.Step(name="first", template=first, arguments=following, when=f"{decision} == begin")
        hera.Step(name="again", template="iterations", arguments=following, when=f"{decision} == iterate")
        hera.Step(name="finish", template="finish", arguments=following, when=f"{decision} == finish")


def _add_graph(graph: Graph, profile: Profile, images: Images) -> None:
    """Add a template per node and the DAG that connects them."""
    check_size(graph)
    hera = _hera()
    for node in graph.nodes:
        _add_template(node, graph, profile, images)
    following = hera.Parameter(
        name="next", value_from=hera.models.ValueFrom(parameter="{{tasks.advance.outputs.parameters.next}}")
    )
    inputs = [hera.Parameter(name=n) for n in COUNTERS]
    with hera.DAG(name=graph.kind, inputs=inputs, outputs=[following]):
        for node in graph.nodes:
            before = sorted({ref.node for ref in node.inputs.values()} | set(node.after))
            hera.Task(
                name=node.name,
                template=f"{graph.kind}-{node.name}",
                depends=" && ".join(before) or None,
                arguments={
                    **{n: f"{{{{inputs.parameters.{n}}}}}" for n in COUNTERS},
                    **{
                        _parameter(name): f"{{{{tasks.{ref.node}.outputs.parameters.{ref.port}}}}}"
                        for name, ref in node.inputs.items()
                    },
                },
            )


def _add_template(node: Node, graph: Graph, profile: Profile, images: Images) -> None:
    if node.stage is None:
        words = ["control", node.kind, "--run-id", "{{workflow.uid}}-{{inputs.parameters.segment}}"]
        words += ["--segment", "{{inputs.parameters.segment}}", "--iteration", "{{inputs.parameters.iteration}}"]
        words += ["--plus-iteration", str(node.iteration)]
        handed = list(contract.ports(handed_on(graph.recipe, graph.kind)))
        outs = handed if node.kind == "open" else ["next"] if node.kind == "advance" else []
    else:
        outs = list(contract.ports(node.stage.outs))
        words = ["stage", node.kind, "--record", "--config", config_text(node)]
        if node.step is not None:
            words += ["--step", "{{inputs.parameters.step}}", "--plus-step", str(node.step)]
        if node.shard:
            words += ["--shard", f"{node.shard.number}/{node.shard.total}"]
        for name in node.inputs:
            words += [f"--{contract.port_of(name).replace('_', '-')}", f"{{{{inputs.parameters.{_parameter(name)}}}}}"]
    inputs = [*COUNTERS, *map(_parameter, node.inputs)]
    name = f"{graph.kind}-{node.name}"
    _container(name, node.kind, words, inputs, outs, graph.recipe.threads, profile, images)


def _parameter(name: str) -> str:
    return name.replace(".", "-")


def _container(
    name: str,
    kind: str,
    words: list[str],
    inputs: list[str],
    outs: list[str],
    threads: int,
    profile: Profile,
    images: Images,
) -> None:
    """Add one container template, placed as the pool profile says."""
    hera = _hera()
    models, pool = hera.models, profile.pool(kind)
    run = ["--store", "{{workflow.parameters.store}}", "--evolution", "{{workflow.parameters.evolution}}"]
    hera.Container(
        name=name,
        image=images.reference(pool.image, profile.registry),
        image_pull_policy="IfNotPresent",
        command=["instar", "supervise", "--", "instar", *words[:2]],
        args=[*run, *words[2:], "--outputs", OUTPUTS],
        inputs=[hera.Parameter(name=n) for n in inputs],
        outputs=[hera.Parameter(name=n, value_from=models.ValueFrom(path=f"{OUTPUTS}/{n}")) for n in outs],
        env=[*_environment(kind, profile, threads)],
        resources=_resources(pool),
        node_selector=pool.node_selector or None,
        tolerations=[_toleration(t) for t in pool.tolerations] or None,
        labels={"kueue.x-k8s.io/queue-name": pool.queue} if pool.queue else None,
        volumes=[*_volumes(pool)],
        active_deadline_seconds=pool.timeout_s,
        retry_strategy=models.RetryStrategy(
            limit="2", retry_policy="OnError", backoff=models.Backoff(duration="30s", factor=2)
        ),
        security_context=models.SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=models.Capabilities(drop=["ALL"]),
        ),
    )


def _environment(kind: str, profile: Profile, threads: int) -> Iterator[Any]:
    hera = _hera()
    for name, value in environment(kind, profile, threads).items():
        if name not in API:  # the workflow itself starts the next segment
            yield hera.Env(name=name, value=value)
    for name, key in (("AWS_ACCESS_KEY_ID", "accesskey"), ("AWS_SECRET_ACCESS_KEY", "secretkey")):
        yield hera.SecretEnv(name=name, secret_name=profile.store_secret, secret_key=key)


def _toleration(toleration: Toleration) -> Any:
    fields = {k: v for k, v in configs.to_dict(toleration).items() if v}
    return _hera().models.Toleration(**fields)


def _resources(pool: Pool) -> Any:
    gpus = {"gpus": pool.count, "gpu_flag": pool.accelerator} if pool.accelerator else {}
    return _hera().Resources(
        cpu_request=pool.cpu, cpu_limit=pool.cpu, memory_request=pool.memory, memory_limit=pool.memory, **gpus
    )


def _volumes(pool: Pool) -> Iterator[Any]:
    hera = _hera()
    if pool.shm:
        yield hera.EmptyDirVolume(name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pool.shm)
    size, name = pool.scratch.size, pool.scratch.class_
    if name:
        claim = hera.models.PersistentVolumeClaimSpec(
            access_modes=["ReadWriteOnce"],
            storage_class_name=name,
            resources=hera.models.VolumeResourceRequirements(requests={"storage": hera.models.Quantity(size)}),
        )
        template = hera.models.PersistentVolumeClaimTemplate(spec=claim)
        yield hera.EphemeralVolume(name="scratch", mount_path="/tmp", volume_claim_template=template)
    else:
        yield hera.EmptyDirVolume(name="scratch", mount_path="/tmp", size_limit=size)


def check_round_trip(text: str) -> None:
    """Raise `ContractError` if Argo's models drop a field. Without this check, a misspelled field would be accepted and ignored."""
    import yaml

    hera = _hera()
    written = yaml.safe_load(text)
    read_back = yaml.safe_load(str(hera.Workflow.from_yaml(text).to_yaml()))
    lost = sorted(_paths(written) - _paths(read_back))
    if lost:
        raise ContractError(
            expected="a workflow that has only fields known to Argo",
            found=f"{len(lost)} unknown fields, the first is {lost[0]}",
            where="argo workflow",
            action="correct the name of the field",
        )


def _paths(value: Any, where: str = "") -> set[str]:
    if isinstance(value, dict):
        return {p for k, v in value.items() for p in {f"{where}.{k}", *_paths(v, f"{where}.{k}")}}
    if isinstance(value, list):
        return {p for i, v in enumerate(value) for p in _paths(v, f"{where}[{i}]")}
    return set()


def _hera() -> Any:
    try:
        from hera import workflows
    except ImportError as error:
        raise MissingDependencyError(
            expected="the package hera",
            found=str(error),
            where="compile --engine argo",
            action="pip install 'instar[argo]'",
        ) from error
    return workflows
