"""Finish a folder with one wheel and one source archive: fixed bytes, checked metadata, SBOM, SHA256SUMS.

    python dist.py FOLDER

The source archive is packed again, because setuptools writes the clock and the user into it. The SBOM is SPDX 2.3: the
wheel, its files, and the packages that its metadata asks for. Standard library only.
"""

from __future__ import annotations

import base64
import csv
import email
import email.message
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import time
import zipfile
from pathlib import Path


def main(folder: Path) -> None:
    """Run all steps; end the process with a message when a check fails."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    wheel, archive = only(folder, "*.whl"), only(folder, "*.tar.gz")
    pack_again(archive, epoch)
    metadata = check(wheel, archive)
    sbom = folder / f"{wheel.name}.spdx.json"
    sbom.write_text(json.dumps(spdx(wheel, metadata, epoch), indent=1, sort_keys=True) + "\n")
    made = sorted([wheel, archive, sbom])
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(path.read_bytes())}  {path.name}\n" for path in made))


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that matches."""
    found = sorted(folder.glob(pattern))
    require(len(found) == 1, f"one {pattern} in {folder}", f"{[p.name for p in found]}")
    return found[0]


def pack_again(archive: Path, epoch: int) -> None:
    """Write a source archive once more: sorted, one time stamp, no owner."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda m: m.name):
            require(member.isfile() or member.isdir(), "files and folders only", member.name)
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.pax_headers = {}
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with archive.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch) as stream:
        stream.write(packed.getvalue())


def check(wheel: Path, archive: Path) -> email.message.Message:
    """Check what a package index would check, and that every byte of the wheel is the one in its RECORD."""
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        text = opened.read(f"{info}/METADATA")
        require({n.partition("/")[0] for n in names} == {"instar", info}, "package instar alone", wheel.name)
        require(f"{info}/licenses/LICENSE" in names, "the licence in the wheel", wheel.name)
        for name, digest, _ in csv.reader(opened.read(f"{info}/RECORD").decode().splitlines()):
            if digest:
                found = base64.urlsafe_b64encode(hashlib.sha256(opened.read(name)).digest()).rstrip(b"=").decode()
                require(digest == f"sha256={found}", f"{name} as in RECORD", found)
    metadata = email.message_from_bytes(text)
    for field in ("Name", "Version", "Summary", "Requires-Python", "License-Expression"):
        require(bool(metadata[field]), f"the field {field}", "nothing")
    require(metadata["Description-Content-Type"].startswith("text/markdown"), "Markdown", "another type")
    require(len(str(metadata.get_payload()).strip()) > 200, "the README as description", "almost nothing")
    wanted = os.environ.get("VERSION", metadata["Version"]).removeprefix("v")
    require(metadata["Version"] == wanted, f"version {wanted}", metadata["Version"])
    with tarfile.open(archive) as opened_archive:
        stem = f"{metadata['Name']}-{metadata['Version']}"
        inside = set(opened_archive.getnames())
        for name in ("PKG-INFO", "pyproject.toml", "README.md", "LICENSE"):
            require(f"{stem}/{name}" in inside, f"{name} in the source archive", "nothing")
        stream = opened_archive.extractfile(f"{stem}/PKG-INFO")
        require(stream is not None and stream.read() == text, "the same metadata in both", "a difference")
    return metadata


def spdx(wheel: Path, metadata: email.message.Message, epoch: int) -> dict[str, object]:
    """Return the SPDX 2.3 document of a wheel."""
    name, version, data = metadata["Name"], metadata["Version"], wheel.read_bytes()
    me = "SPDXRef-wheel"
    needed = [requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    with zipfile.ZipFile(wheel) as opened:
        files = [file_entry(n, opened.read(n)) for n in sorted(opened.namelist()) if not n.endswith("/")]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", me)]
    relations += [(me, "CONTAINS", str(f["SPDXID"])) for f in files]
    relations += [
        (str(p["SPDXID"]), "OPTIONAL_DEPENDENCY_OF", me) if extra else (me, "DEPENDS_ON", str(p["SPDXID"]))
        for p, extra in needed
    ]
    package = {
        "SPDXID": me,
        "name": name,
        "versionInfo": version,
        "packageFileName": wheel.name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseDeclared": metadata["License-Expression"],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256(data)}],
        "externalRefs": [purl(f"pkg:pypi/{name}@{version}")],
    }
    unique = {str(p["SPDXID"]): p for p, _ in needed}
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": wheel.name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{wheel.name}-{sha256(data)}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "creators": [f"Tool: {name}-dist"],
        },
        "packages": [package, *unique.values()],
        "files": files,
        "relationships": [
            {"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b}
            for a, kind, b in sorted(set(relations))
        ],
    }


def requirement(line: str) -> tuple[dict[str, object], bool]:
    """Return the SPDX package of a `Requires-Dist` line, and whether it belongs to an extra. Versions are ranges."""
    found = re.match(r"([A-Za-z0-9._-]+)", line)
    require(found is not None, "a requirement", line)
    name = re.sub(r"[-_.]+", "-", found[1] if found else "").lower()
    package: dict[str, object] = {
        "SPDXID": f"SPDXRef-needs-{name}",
        "name": name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [purl(f"pkg:pypi/{name}")],
    }
    return package, "extra ==" in line


def file_entry(name: str, data: bytes) -> dict[str, object]:
    """Return the SPDX file of a member of the wheel; SPDX 2.3 demands SHA-1, SHA-256 is the one to trust."""
    sums = {"SHA1": hashlib.sha1(data, usedforsecurity=False).hexdigest(), "SHA256": sha256(data)}
    return {
        "SPDXID": f"SPDXRef-file-{hashlib.sha256(name.encode()).hexdigest()[:16]}",
        "fileName": f"./{name}",
        "checksums": [{"algorithm": k, "checksumValue": v} for k, v in sums.items()],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }


def purl(locator: str) -> dict[str, str]:
    """Return a package URL reference."""
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}


def sha256(data: bytes) -> str:
    """Return the digest in hex."""
    return hashlib.sha256(data).hexdigest()


def require(holds: bool, expected: str, found: str) -> None:
    """End the process with a message when something does not hold."""
    if not holds:
        raise SystemExit(f"dist.py: expected {expected}; found {found}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
