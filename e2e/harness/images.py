"""The images that the cluster runs, made without Docker: which layers they have and what they start."""

from e2e.harness import oci, tools
from e2e.harness.containerd import PAUSE_IMAGE
from e2e.harness.oci import Image, Layer


def pause() -> Image:
    """The sandbox of every pod."""
    program = tools.binary(tools.PAUSE).read_bytes()
    layer = Layer.of(lambda out: oci.tar_files(out, {"pause": (program, 0o755)}))
    return Image(PAUSE_IMAGE, (layer,), oci.Process(Entrypoint=("/pause",)))
