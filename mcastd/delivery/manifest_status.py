"""What the status says of a manifest."""

from __future__ import annotations

from mcastd.keytext import VerifyingKey
from mcastd.protocols.manifest import Manifest
from mcastd.status import ManifestStatus


def status_of(manifest: Manifest, signer: VerifyingKey | None) -> ManifestStatus:
    """The status of a manifest that is sent, or was taken."""
    return ManifestStatus(
        serial=manifest.serial,
        signer="" if signer is None else signer.text,
        issued=manifest.issued,
        expires=manifest.expires,
        files=len(manifest.files),
        total_bytes=sum(file.length for file in manifest.files),
        refused="",
        refusal="",
    )
