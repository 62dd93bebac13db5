"""Print the SPDX 2.3 bill of materials of the image this runs in: `python - IMAGE DIGEST < images/sbom.py`.

Everything is read from what is installed: the metadata of Python distributions, the control files of Debian packages,
and the locks, which hold the SHA-256 of the file each distribution came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any

from instar.errors import ArtifactError

PREFIX = Path(sys.prefix)
LOCKS = (PREFIX / "share/instar/requirements.lock", PREFIX / "share/instar/instar.lock")
DEBIAN = Path("/var/lib/dpkg/status.d")


def normal(name: str) -> str:
    """Return the name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes() -> dict[str, str]:
    """Return {normalised name: sha256} of every line of the locks."""
    found = (
        re.match(r"(\S+)==\S+ --hash=sha256:(\w+)", line) for lock in LOCKS for line in lock.read_text().splitlines()
    )
    return {normal(match[1]): match[2] for match in found if match}


def package(kind: str, name: str, version: str, **more: Any) -> dict[str, Any]:
    """Return one SPDX package. `kind` is pypi or deb."""
    url = f"pkg:pypi/{normal(name)}@{version}" if kind == "pypi" else f"pkg:deb/debian/{name}@{version}"
    return {
        "SPDXID": f"SPDXRef-{kind}-{re.sub('[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url.replace("+", "%2B"),
            }
        ],
        **more,
    }


def distribution(found: metadata.Distribution, sha256: str | None) -> dict[str, Any]:
    """Return the package of a Python distribution. Free-text licences are comments: SPDX knows only expressions."""
    name, fields = found.metadata["Name"], found.metadata
    if sha256 is None:
        raise ArtifactError(
            expected="a line in a lock for every installed distribution",
            found=f"{name} {found.version} without one",
            where=", ".join(map(str, LOCKS)),
            action="build the image from its locks only",
        )
    more: dict[str, Any] = {"checksums": [{"algorithm": "SHA256", "checksumValue": sha256}]}
    stated = [c.rpartition(":: ")[2] for c in fields.get_all("Classifier", []) if c.startswith("License ::")]
    if "License-Expression" in fields:
        more["licenseDeclared"] = fields["License-Expression"]
    elif text := "; ".join(stated) or "".join(fields.get_all("License", [])).strip().split("\n")[0]:
        more["licenseComments"] = f"stated by the distribution: {text}"
    return package("pypi", name, found.version, **more)


def document(image: str, digest: str) -> dict[str, Any]:
    """Return the whole document; equal images and SOURCE_DATE_EPOCH give equal documents."""
    known = hashes()
    python = [distribution(d, known.get(normal(d.metadata["Name"]))) for d in metadata.distributions()]
    control = [HeaderParser().parsestr(path.read_text()) for path in DEBIAN.iterdir()]
    debian = [package("deb", str(c["Package"]), str(c["Version"])) for c in control]
    packages = sorted([*python, *debian], key=lambda p: p["SPDXID"])
    root = package("image", image, digest)
    root["externalRefs"] = []
    created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    content = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    contains = [
        {"spdxElementId": root["SPDXID"], "relationshipType": "CONTAINS", "relatedSpdxElement": p["SPDXID"]}
        for p in packages
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": image,
        "documentNamespace": f"https://spdx.org/spdxdocs/{image}-{content}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: instar-sbom"]},
        "documentDescribes": [root["SPDXID"]],
        "packages": [root, *packages],
        "relationships": contains,
    }


if __name__ == "__main__":
    json.dump(document(sys.argv[1], sys.argv[2]), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
