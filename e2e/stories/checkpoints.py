"""Checkpoints on a claim, two good ones and broken ones, written by a Job from the runtime's own image."""

from e2e.harness.cluster import Object

CLAIM = "models"
SCRATCH = "/tmp"  # noqa: S108 - an emptyDir of the pod
IMAGE = "localhost/wenxin/runtime:dev"

# Each broken folder differs from `tiny` in the one thing that its name says.
_WRITE = """
import json, pathlib, shutil, subprocess
root = pathlib.Path("/models")
good = root / "tiny"
# `tiny` is to the byte that of examples/tiny.yaml: answers can be compared.
for folder, arch in ((good, "ernie4_5"), (root / "tiny-moe", "ernie4_5_moe")):
    subprocess.run(["wenxin-runtime", "fixture", folder, "--arch", arch, "--size", "tiny", "--seed", "7"], check=True)

def broken(name):
    return pathlib.Path(shutil.copytree(good, root / name))

(broken("no-checkpoint") / "config.json").unlink()

folder = broken("paddle-layout")
weights = folder / "model.safetensors"
weights.write_bytes(weights.read_bytes().replace(b'"model.', b'"ernie.'))

weights = broken("truncated") / "model.safetensors"
weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])

config = broken("unsupported") / "config.json"
content = json.loads(config.read_text()) | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
config.write_text(json.dumps(content))
"""


def manifests(access: str = "ReadWriteOnce") -> list[Object]:
    """A claim and the Job that fills it; all of it within the restricted Pod Security Standard.

    Args:
        access: the claim's access mode; pods on several nodes need ReadWriteMany.
    """
    container = {
        "name": "write",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _WRITE],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "env": [{"name": "HOME", "value": SCRATCH}],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": SCRATCH}],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": CLAIM}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    claim = {"accessModes": [access], "resources": {"requests": {"storage": "64Mi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "write-checkpoints"},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        },
    ]
