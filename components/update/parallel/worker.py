"""One process of an update, as a program under torchrun. Its argument is the file `job.json` that `launch` writes.

Files in the folder of `job.json`
    job.json             what holds for all updates
    job-n.json           what update n does
    metrics-n.json       the answer of process 0 to update n
    rank-r.log           output of process r, and its stacks when it is ended
    rank-r.json          the unit of work that process r does now
    rank-r.error.json    the error of process r, if it fails
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import lifeline
from instar.components.update.parallel.gang import write
from instar.errors import InstarError

if TYPE_CHECKING:
    from instar.components.update.parallel.improve import Held

POLL_S = 0.02
"""Seconds between two looks for the next update."""
Work = Callable[[dict[str, Any], Path, int, int], None]


def main(work: Work) -> None:
    """Do the work of one process. If it fails, end at once, because others may wait for it in a collective for ever."""
    folder, rank = Path(sys.argv[1]).parent, int(os.environ["RANK"])
    log = (folder / f"rank-{rank}.log").open("ab")
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    lifeline.hold()
    faulthandler.enable(log)
    faulthandler.register(signal.SIGTERM, file=log, all_threads=True, chain=True)
    try:
        work(json.loads(Path(sys.argv[1]).read_text()), folder, rank, int(os.environ["WORLD_SIZE"]))
    except Exception as error:
        traceback.print_exc()
        write(folder / f"rank-{rank}.error.json", _record(error))
        sys.stderr.flush()
        os._exit(1)


def serve(purpose: dict[str, Any], folder: Path, rank: int, size: int) -> None:
    """Join the other processes, do the updates as they come, and leave after the final one."""
    from torch import distributed

    from instar.components.update.parallel.improve import Held

    join(purpose["device"], purpose["config"]["collective_timeout_s"])
    held = Held()
    for number in count(1):
        job = _wait(folder / f"job-{number}.json")
        metrics = improve({**purpose, **job}, folder, rank, size, held)
        distributed.barrier()
        if rank == 0:
            write(folder / f"metrics-{number}.json", metrics)
        if job["last"]:
            break
    distributed.barrier()
    distributed.destroy_process_group()


def _wait(path: Path) -> dict[str, Any]:
    """Wait until a file is there, and return what it says.

    There is no deadline. If the process that would write it ends, this process ends too (`lifeline`).
    """
    while not path.exists():
        time.sleep(POLL_S)
    return dict(json.loads(path.read_text()))


def join(device: str, timeout_s: float) -> None:
    """Join the other processes and take this one's device. No collective may take longer than `timeout_s`."""
    import torch
    from torch import distributed

    timeout = timedelta(seconds=timeout_s)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group(
            "nccl", timeout=timeout, device_id=torch.device("cuda", torch.cuda.current_device())
        )
    else:
        distributed.init_process_group("gloo", timeout=timeout)


def improve(job: dict[str, Any], folder: Path, rank: int, size: int, held: Held) -> dict[str, float]:
    """Do the update that `job` describes and return its metrics. If another one follows, its state stays in `held`."""
    from instar import config as configs
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.parallel import improve as parts
    from instar.components.update.parallel.ranks import Ranks
    from instar.components.update.stage import Ins, Outs
    from instar.contract import Context, bind, ports
    from instar.heartbeat import Heartbeat

    beat = Heartbeat(folder / f"rank-{rank}.json", "update", lambda unit, metrics: None)
    beat("start", {})
    ins, outs = (
        bind(
            kind,
            {name: ports(kind)[name][0](Path(path), digest) for name, (path, digest) in job[key].items()},
            "update",
        )
        for kind, key in ((Ins, "ins"), (Outs, "outs"))
    )
    scratch = Path(job["scratch"]) if rank == 0 else folder / f"rank-{rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    ctx = Context(**job["context"], scratch=scratch, heartbeat=beat, durable=job["last"])
    config = configs.from_dict(PolicyGradientConfig, job["config"])
    metrics = parts.improve(ins, outs, config, ctx, Ranks(rank, size), job["device"], held)
    beat.settle()
    return metrics


def _record(error: Exception) -> dict[str, str]:
    """Return an error as the process of the stage can raise it again."""
    if isinstance(error, InstarError):
        fields = {k: getattr(error, k) for k in ("expected", "found", "where", "action")}
        return {"class": type(error).__name__, **fields}
    return {"class": "", "found": f"{type(error).__name__}: {str(error).strip()[:300]}"}


if __name__ == "__main__":
    main(serve)
