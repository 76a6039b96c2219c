"""The images that the cluster runs, made without Docker: which layers they have and what they start.

The Dockerfiles in runtime/ and operator/ make the same images for real use, with everything that a GPU needs.
"""

from e2e.harness import layers, oci, paths, tools
from e2e.harness.containerd import PAUSE_IMAGE
from e2e.harness.oci import Image, Layer

TAG = "dev"
RUNTIME = f"localhost/wenxin/runtime:{TAG}"
OPERATOR = f"localhost/wenxin/operator:{TAG}"
REDIS = f"localhost/wenxin/redis:{TAG}"
_ENVIRONMENT = (
    "PATH=/usr/local/bin:/usr/bin:/bin",
    f"PYTHONPATH=/{layers.APPLICATION}:/{layers.SITE}",
    "PYTHONUNBUFFERED=1",
    "PYTHONDONTWRITEBYTECODE=1",
    "LANG=C.UTF-8",
    "HOME=/tmp",
    "USER=wenxin",  # torch asks for an account's name otherwise
)


def runtime() -> Image:
    """The inference server, with a torch that computes on a CPU only."""
    return _ours(RUNTIME, "runtime", "wenxin-runtime")


def operator() -> Image:
    """The operator."""
    return _ours(OPERATOR, "operator", "wenxin-operator")


def pause() -> Image:
    """The sandbox of every pod."""
    program = tools.binary(tools.PAUSE).read_bytes()
    layer = Layer.of(lambda out: oci.tar_files(out, {"pause": (program, 0o755)}))
    return Image(PAUSE_IMAGE, (layer,), oci.Process(Entrypoint=("/pause",)))


def redis() -> Image:
    """Redis, for deployments that have one of their own."""
    return Image(REDIS, (layers.redis(),), oci.Process(Entrypoint=("redis-server",)))


def ours() -> list[Image]:
    """What the project itself delivers, and what it runs besides."""
    return [operator(), runtime(), redis()]


def _ours(reference: str, half: str, program: str) -> Image:
    package = paths.REPOSITORY / half / program.replace("-", "_")
    stack = (layers.debian(), layers.dependencies(half), layers.project(package, program))
    return Image(reference, stack, oci.Process(Entrypoint=(program,), Env=_ENVIRONMENT))
