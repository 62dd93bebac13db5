"""The container runner on a real engine: exit codes, outputs, restrictions, limits, secrets, loops, and its own end."""
# ruff: noqa: ARG001 (a component's arguments are its interface)

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, List  # noqa: UP035 (kfp reads this form)

import docker
import pytest
from kfp import compiler, dsl, kubernetes
from kfp.dsl import Dataset, Input, Model, Output

from instar import errors
from instar.errors import ConfigError, ContractError, InstarError, StalledError, UnavailableError
from instar.pipelines.containers import ir
from instar.pipelines.containers.engine import RUN
from instar.pipelines.containers.run import Options
from instar.pipelines.containers.run import run as run_program
from support.python_image import HELP, IMAGE, PYTHON, rootfs

pytestmark = pytest.mark.containers
Runner = Callable[..., Any]


@pytest.fixture(scope="module")
def client(engine: str) -> Iterator[Any]:
    client: Any = docker.DockerClient(base_url=engine)
    client.api.import_image_from_data(rootfs(), repository=IMAGE.split(":")[0], tag=IMAGE.split(":")[1])
    yield client
    left = client.containers.list(all=True, filters={"label": RUN})
    assert not [c.labels for c in left if c.labels[RUN].startswith("t-")], "a container was left"
    client.images.remove(IMAGE, force=True)


@dsl.container_component
def source(script: str, made: Output[Dataset], label: dsl.OutputPath(str)):  # pyright: ignore[reportInvalidTypeForm]
    return dsl.ContainerSpec(image="registry/py@sha256:1", command=[PYTHON, "-c", script], args=["{{$}}"])


@dsl.container_component
def shard(script: str, item: int, batch: Input[Dataset], part: Output[Dataset]):
    return dsl.ContainerSpec(image="registry/py@sha256:1", command=[PYTHON, "-c", script], args=["{{$}}"])


@dsl.container_component
def gather(script: str, parts: Input[List[Dataset]], label: str, out: Output[Model]):  # noqa: UP006
    return dsl.ContainerSpec(image="registry/py@sha256:1", command=[PYTHON, "-c", script], args=["{{$}}"])


@dsl.container_component
def plain(script: str, found: dsl.OutputPath(str)):  # pyright: ignore[reportInvalidTypeForm]
    return dsl.ContainerSpec(image="registry/py@sha256:1", command=[PYTHON, "-c", script], args=["{{$}}"])


def package(pipeline: Any, path: Path) -> None:
    compiler.Compiler().compile(pipeline, str(path))


@pytest.fixture
def run(client: Any, tmp_path: Path) -> Runner:
    """Compile one task that runs a script, or a pipeline, and run it. The run's name and folder belong to the test."""

    def go(what: Any, change: Callable[[Any], Any] = lambda task: None, options: Options | None = None) -> Any:
        if isinstance(what, str):
            text = HELP + what

            def body() -> None:
                change(plain(script=text))

            what = dsl.pipeline(name="one")(body)
        path = tmp_path / "p.yaml"
        package(what, path)
        return run_program(
            ir.load(path),
            {},
            root=tmp_path / "runs",
            name=f"t-{tmp_path.name}"[:60],
            image_of=lambda image: {"registry/py@sha256:1": IMAGE}[image],
            docker=client,
            options=options or Options(memory=256 << 20),
        )

    return go


def log_of(tmp_path: Path, task: str = "plain") -> str:
    return (tmp_path / "runs" / f"t-{tmp_path.name}"[:60] / task / "log.txt").read_text()


def on_start(client: Any, name: str, act: Callable[[str], Any]) -> threading.Thread:
    """Call `act` with the container's id when the engine reports that a container of run `name` has started."""
    events = client.events(filters={"label": f"{RUN}={name}", "event": "start"}, decode=True)

    def watch() -> None:
        act(next(events)["id"])
        events.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


CODES = errors.BY_CODE
SWEEP = [*(code for code in sorted(CODES) if code != 70), 1, 2, 3, 42, 99, 254, 255]


def test_every_exit_code_becomes_its_class(run: Runner, tmp_path: Path) -> None:
    codes = SWEEP[:21]
    assert len(codes) == 21 and {10, 20, 75, 76, 1} <= set(codes)
    wrong = []
    for code in codes:
        with pytest.raises(InstarError) as error:
            run(f"print('before', flush=True); print('the cause', {code}, file=sys.stderr); sys.exit({code})")
        right = type(error.value) is CODES.get(code, errors.ProcessError) and f"exit code {code};" in error.value.found
        if not right or f"the cause {code}" not in error.value.found:
            wrong.append((code, error.value))
    assert not wrong
    assert sorted(log_of(tmp_path).splitlines()) == ["before", f"the cause {codes[-1]}"]  # two streams have no order


def test_a_named_error_of_a_stage_arrives_as_its_class(run: Runner) -> None:
    script = (
        "sys.path.insert(0, '/app')\nfrom instar.errors import NumericsError\n"
        "e = NumericsError(expected='a finite loss', found='nan', where='update', action='lower the rate')\n"
        "sys.stderr.write(e.render() + chr(10)); sys.exit(e.exit_code)"
    )
    with pytest.raises(errors.NumericsError, match="a finite loss") as error:
        run(script)
    assert "lower the rate" in error.value.found and "task plain" in error.value.where


def test_exit_code_0_without_outputs_is_a_failure(run: Runner) -> None:
    for script in ("pass", "end()", "open(outs['parameters']['found']['outputFile'], 'w').write('x')"):
        with pytest.raises(ContractError):
            run(script)
    assert run("end(found='x')")["plain"].parameters == {"found": "x"}
    assert (
        run("end(); open(outs['parameters']['found']['outputFile'], 'w').write('y')")["plain"].parameters["found"]
        == "y"
    )


LOOK = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def tried(path):
    try:
        open(path, "w").write("x")
        return "written"
    except OSError as error:
        return error.strerror
out = os.path.dirname(outs["outputFile"])
end(found=json.dumps({
    "uid": os.getuid(), "gid": os.getgid(),
    "caps": [status[k].strip() for k in ("CapEff", "CapPrm", "CapBnd")], "privileges": status["NoNewPrivs"].strip(),
    "root": tried("/x"), "tmp": tried("/tmp/x"), "own": tried(out + "/x"), "above": tried(os.path.dirname(out) + "/x"),
    "scratch": tried("/scratch/x"), "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "network": sorted(os.listdir("/sys/class/net")), "env": dict(os.environ),
}))
"""


def test_a_container_is_as_restricted_as_a_pod(run: Runner) -> None:
    def ask(task: Any) -> None:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="32Mi")
        kubernetes.empty_dir_mount(task, "scratch", "/scratch")
        task.set_env_variable("OMP_NUM_THREADS", "1").set_env_variable("ENDPOINT", "http://cluster")

    options = Options(memory=256 << 20, environment={"ENDPOINT": "http://here"}, secrets={"UNASKED": "no"})
    found = json.loads(run(LOOK, ask, options)["plain"].parameters["found"])
    assert (found["uid"], found["gid"]) == (1000650000, 0)
    assert set(found["caps"]) == {"0" * 16} and found["privileges"] == "1"
    assert found["root"] == "Read-only file system" and found["above"] in ("Read-only file system", "Permission denied")
    assert (found["tmp"], found["own"], found["scratch"]) == ("written",) * 3
    assert found["shm"] == 32 << 20 and found["network"] == ["lo"]
    assert found["env"]["ENDPOINT"] == "http://here" and found["env"]["OMP_NUM_THREADS"] == "1"
    assert "UNASKED" not in found["env"], "a secret reaches only a task that refers to it"


def test_inputs_of_a_task_are_read_only(run: Runner) -> None:
    first = HELP + "write('made', 'sha256:' + '1' * 64); end(label='x')"
    second = HELP + (
        "try:\n    open(ins['artifacts']['batch']['artifacts'][0]['uri'], 'w')\n"
        "except OSError as error:\n    print(error.strerror, flush=True); sys.exit(15)\n"
    )

    @dsl.pipeline(name="two")
    def two() -> None:
        shard(script=second, item=1, batch=source(script=first).outputs["made"])

    with pytest.raises(errors.NumericsError, match="Read-only file system"):
        run(two)


def test_a_loop_collects_in_the_order_of_its_items(run: Runner) -> None:
    """Item 0 does the most work, so that with two at once it ends after others."""
    first = HELP + "write('made', 'sha256:' + '1' * 64); end(label='seven')"
    each = HELP + (
        "n = ins['parameterValues']['item']; assert isinstance(n, int) and read('batch') == ['sha256:' + '1' * 64]\n"
        "for _ in range(3000 * (5 - n)): hashlib.sha256(b'x' * 4096).digest()\n"
        "write('part', 'sha256:' + str(n) * 64); end()"
    )
    last = HELP + (
        "assert read('parts') == ['sha256:' + str(n) * 64 for n in (0, 1, 2, 3)], read('parts')\n"
        "assert ins['parameterValues']['label'] == 'seven'; write('out', read('parts')[2]); end()"
    )

    @dsl.pipeline(name="fan")
    def fan() -> None:
        made = source(script=first)
        with dsl.ParallelFor([0, 1, 2, 3]) as item:
            part = shard(script=each, item=item, batch=made.outputs["made"])
        gather(script=last, parts=dsl.Collected(part.outputs["part"]), label=made.outputs["label"])

    done = run(fan, options=Options(memory=256 << 20, parallelism=2))
    assert done["gather"].artifacts["out"][0]["metadata"]["instar.digest"] == "sha256:" + "2" * 64


def test_the_first_failure_of_a_loop_stops_the_other_items(run: Runner, client: Any, tmp_path: Path) -> None:
    first = HELP + "write('made', 'sha256:' + '1' * 64); end(label='x')"
    each = HELP + (
        f"import time\nopen({str(tmp_path)!r} + '/shared/' + str(ins['parameterValues']['item']), 'w')\n"
        f"while len(os.listdir({str(tmp_path)!r} + '/shared')) < 2: time.sleep(0.02)\n"
        "if ins['parameterValues']['item'] == 0: sys.exit(16)\n"
        "time.sleep(600)"
    )
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)

    @dsl.pipeline(name="fan")
    def fan() -> None:
        made = source(script=first)
        with dsl.ParallelFor([0, 1]) as item:
            shard(script=each, item=item, batch=made.outputs["made"])

    with pytest.raises(errors.RewardError):
        run(fan, options=Options(memory=256 << 20, parallelism=2, writable=(tmp_path / "shared",)))
    assert not client.containers.list(all=True, filters={"label": f"{RUN}=t-{tmp_path.name}"[:60]})


def test_a_killed_container_is_worth_another_try(run: Runner, client: Any, tmp_path: Path) -> None:
    thread = on_start(client, f"t-{tmp_path.name}"[:60], lambda name: client.containers.get(name).kill())
    with pytest.raises(UnavailableError, match="exit code 137, killed"):
        run("import time; time.sleep(600)")
    thread.join(timeout=10)


def test_a_container_removed_by_hand_is_worth_another_try(run: Runner, client: Any, tmp_path: Path) -> None:
    on_start(client, f"t-{tmp_path.name}"[:60], lambda name: client.containers.get(name).remove(force=True))
    with pytest.raises(UnavailableError):
        run("import time; time.sleep(600)")


def test_running_out_of_memory_says_so(run: Runner) -> None:
    with pytest.raises(UnavailableError, match="out of memory"):
        run("x = bytearray(512 << 20)", lambda task: task.set_memory_limit("64Mi"))


def test_a_task_stops_at_its_timeout(run: Runner) -> None:
    script = "import signal, time\nprint('started', flush=True)\ntime.sleep(600)"
    with pytest.raises(StalledError, match="limit of 1 s; started"):
        run(script, lambda task: kubernetes.set_timeout(task, 1), Options(memory=256 << 20, grace_s=1))


def test_secrets_are_in_no_log_and_no_error(run: Runner, tmp_path: Path) -> None:
    value = "hunter2-hunter2"
    script = "print(dict(os.environ), flush=True); print('end ' + os.environ['AWS_SECRET_ACCESS_KEY']); sys.exit(11)"
    options = Options(memory=256 << 20, secrets={"AWS_SECRET_ACCESS_KEY": value}, environment={"TOKEN_PLAIN": "p"})

    def ask(task: Any) -> None:
        kubernetes.use_secret_as_env(task, "instar-store", {"secretkey": "AWS_SECRET_ACCESS_KEY"})

    with pytest.raises(errors.ArtifactError) as error:
        run(script, ask, options)
    assert value not in str(error.value) and "end ***" in error.value.found
    assert value not in log_of(tmp_path) and "'AWS_SECRET_ACCESS_KEY': '***'" in log_of(tmp_path)
    assert value not in repr(options)
    assert not [f for f in (tmp_path / "runs").rglob("*") if f.is_file() and value.encode() in f.read_bytes()]


def test_what_cannot_run_here_is_refused_before_anything_runs(run: Runner, client: Any, tmp_path: Path) -> None:
    def secret(task: Any) -> None:
        kubernetes.use_secret_as_env(task, "instar-store", {"accesskey": "AWS_ACCESS_KEY_ID"})

    def accelerator(task: Any) -> None:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)

    for change, named in ((secret, "AWS_ACCESS_KEY_ID"), (accelerator, "1 accelerators")):
        with pytest.raises(ConfigError, match=named):
            run("pass", change)

    @dsl.pipeline(name="p")
    def one() -> None:
        plain(script="x")

    package(one, tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="registry/py"):
        run_program(ir.load(tmp_path / "p.yaml"), {}, root=tmp_path, name="t-none", docker=client)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "t-none").exists()


def test_a_program_that_the_image_lacks_is_permanent(client: Any, tmp_path: Path) -> None:
    @dsl.container_component
    def lost(found: dsl.OutputPath(str)):  # pyright: ignore[reportInvalidTypeForm]
        return dsl.ContainerSpec(image=IMAGE, command=["/bin/nothing"], args=["{{$}}"])

    @dsl.pipeline(name="p")
    def one() -> None:
        lost()

    package(one, tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="nothing"):
        run_program(ir.load(tmp_path / "p.yaml"), {}, root=tmp_path, name="t-lost", docker=client)


def test_what_an_earlier_run_left_is_removed_first(run: Runner, client: Any, tmp_path: Path) -> None:
    name = f"t-{tmp_path.name}"[:60]
    script = [PYTHON, "-c", "import time; time.sleep(600)"]
    old = client.containers.run(IMAGE, script, labels={RUN: name}, detach=True, network_mode="none")
    other = client.containers.run(IMAGE, script, labels={RUN: "other"}, detach=True, network_mode="none")
    try:
        run("end(found='x')")
        assert [c.id for c in client.containers.list(all=True) if c.id in (old.id, other.id)] == [other.id]
    finally:
        other.remove(force=True)


def test_sigterm_removes_the_running_container(client: Any, tmp_path: Path) -> None:
    name = f"t-{tmp_path.name}"[:60]

    @dsl.pipeline(name="one")
    def one() -> None:
        plain(script="import time; time.sleep(600)")

    package(one, tmp_path / "p.yaml")
    code = (
        "import sys; from pathlib import Path; from instar.pipelines.containers import ir, run\n"
        "run.run(ir.load(Path(sys.argv[1]) / 'p.yaml'), {}, root=Path(sys.argv[1]), name=sys.argv[2],"
        f" image_of=lambda image: {IMAGE!r})"
    )
    started = threading.Event()
    on_start(client, name, lambda _: started.set())
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], env=dict(os.environ))
    try:
        assert started.wait(60)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 143
    finally:
        child.kill()
        child.wait()
    assert not client.containers.list(all=True, filters={"label": f"{RUN}={name}"})
