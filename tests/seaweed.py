"""A real SeaweedFS on loopback: `weed server` with one identity, four free ports and data that outlive a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "instar-test-key", "instar-test-secret-5f3a"
_DEADLINE_S = 60.0
# Left to itself the server takes no write when less than 1 % of the disk is free, and as many volumes as then fit.
LITTLE_SPACE = ("-volume.minFreeSpace=16MiB", "-volume.max=64", "-master.volumeSizeLimitMB=64")


def find_weed() -> str | None:
    """Return the path of the `weed` binary of this environment, or None."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


class Seaweed:
    """One server process. `start` waits until it answers; `kill` is SIGKILL; a later `start` reuses ports and data."""

    def __init__(self, weed: str, folder: Path) -> None:
        self.folder, self._weed = folder, weed
        self.ports = _free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        """Start the server and wait for its S3 port."""
        s3, master, volume, filer = self.ports
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            self._weed,
            "-logtostderr=true",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            *LITTLE_SPACE,
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
        ]
        with (self.folder / "weed.log").open("ab") as log:
            environment = {**os.environ, "GOMEMLIMIT": "1GiB"}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)
        stop = time.monotonic() + _DEADLINE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > stop:
                tail = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(
                    f"weed did not start within {_DEADLINE_S:g} s (exit {self._process.poll()}):\n{tail}"
                )
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server as a power switch would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> None:
        """Create a bucket; the first one waits for the volume server to join."""
        from minio import Minio

        host = self.endpoint.removeprefix("http://")
        client = Minio(host, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False, region="us-east-1")
        if not client.bucket_exists(name):
            client.make_bucket(name)

    def environment(self) -> dict[str, str]:
        """Return the variables that `open_store` reads."""
        return {
            "INSTAR_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _free_ports(count: int) -> list[int]:
    """Return distinct free ports whose +10000 neighbours, which the server uses for gRPC, are free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port > 55000 or port in found:
                continue
            try:
                high.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            found.append(port)
    return found
