"""Streams images into a containerd, sending only the layers that it lacks."""

import os
import subprocess
from collections.abc import Sequence

from e2e.harness.errors import BuildError
from e2e.harness.oci import Image, write_archive
from e2e.harness.progress import step

ALIAS = "sha256:"  # Kubernetes gives every image a second name, and leaves it when the first one moves on


def load(client: Sequence[str], image: Image, *, node: str) -> None:
    """Import an image through containerd's own client.

    Args:
        client: the command line of ctr up to its namespace, perhaps behind `docker exec --interactive`.
        image: what to import; nothing happens when the reference stands for the same content already.
        node: for messages.

    Raises:
        BuildError: containerd refused it.
    """
    if _stored(client).get(image.reference) == image.digest:
        return
    present = set(_run([*client, "content", "list", "--quiet"]).split())
    missing = [layer for layer in image.layers if layer.digest not in present]
    size = sum(layer.size for layer in missing) / 1e6
    with step(f"Loading {image.reference} on {node} ({size:.0f} MB in {len(missing)} new layers)"):
        _import(client, image, present)
        collect_garbage(client)


def collect_garbage(client: Sequence[str]) -> None:
    """Remove what was replaced: images that have lost their reference, then layers that no image has."""
    stored = _stored(client)
    named = {digest for reference, digest in stored.items() if not reference.startswith(ALIAS)}
    if replaced := [name for name, digest in stored.items() if name.startswith(ALIAS) and digest not in named]:
        _run([*client, "images", "delete", *replaced])
    # containerd collects when something is deleted, and tells nobody when it is done; except for a lease.
    lease = f"wenxin-{os.getpid()}"
    _run([*client, "leases", "create", "--id", lease])
    _run([*client, "leases", "delete", "--sync", lease])


def _import(client: Sequence[str], image: Image, present: set[str]) -> None:
    command = [*client, "images", "import", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdin
        assert child.stdout
        broken = False
        try:
            write_archive(child.stdin, image, present=present)
            child.stdin.close()
        except BrokenPipeError:
            broken = True
        output = child.stdout.read().decode(errors="replace")
    if child.returncode or broken:
        raise BuildError(f"containerd does not take {image.reference}: {output.strip()}")


def _stored(client: Sequence[str]) -> dict[str, str]:
    """Reference -> digest of its manifest."""
    rows = [line.split() for line in _run([*client, "images", "list"]).splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
