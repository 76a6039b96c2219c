"""What fetches weights: the claim they are kept on, the Job, and all that it is told.

The command is `wenxin-runtime download`: it goes on with what an earlier attempt left on the claim, verifies each file,
publishes the folder by one rename, and leaves in the termination log what an inspection would.
"""

from typing import Final

from wenxin_operator import presets
from wenxin_operator.api.fields import ClaimPath
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.drift import quantity
from wenxin_operator.names import (
    COMPONENT_DOWNLOAD,
    COMPONENT_WEIGHTS,
    CONFIG_MAP,
    JOB,
    LABEL_ATTEMPT,
    LABEL_MEANS,
    LABEL_SOURCE,
    PERSISTENT_VOLUME_CLAIM,
    Raw,
    checksums_config_map,
    child_labels,
    content_hash,
    download_job,
    weights_claim,
)
from wenxin_operator.plan.flags import PORT
from wenxin_operator.plan.inspection import placement
from wenxin_operator.plan.manifest import (
    POD_SECURITY,
    TMP_MOUNT,
    TMP_VOLUME,
    OperatorSettings,
    Owner,
    container,
    model_volume,
    origin_of_image,
)

CREDENTIALS: Final = (
    "HF_TOKEN",
    "MODELSCOPE_API_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "WENXIN_DOWNLOAD_TOKEN",
    "HTTPS_PROXY",
)
"""Keys of the Secret, and variables of the command."""

_CHECKSUMS: Final = "/etc/wenxin/checksums"
_CA: Final = "/etc/wenxin/ca"


def claim(owner: Owner, spec: ModelSpec, live: Raw | None) -> Raw | None:
    """The claim that the operator makes; None where the user's own is named.

    What the API server lets nobody change is kept as it is, and so is the size when it is already larger.

    Args:
        owner: The WenxinModel.
        spec: Its spec.
        live: The claim of that name.
    """
    storage = spec.storage
    if storage and storage.existing_claim:
        return None
    size = (storage and storage.size) or presets.claim_size(spec.preset or "")
    wanted: Raw = {
        "accessModes": list((storage and storage.access_modes) or ("ReadWriteOnce",)),
        "resources": {"requests": {"storage": size}},
    }
    if storage and storage.storage_class_name:
        wanted["storageClassName"] = storage.storage_class_name
    if live is not None:
        wanted |= {field: live["spec"][field] for field in ("accessModes", "storageClassName") if field in live["spec"]}
        wanted["resources"] = {"requests": {"storage": _larger(size, live)}}
    return owner.child(PERSISTENT_VOLUME_CLAIM, weights_claim(owner.key.name), COMPONENT_WEIGHTS, spec=wanted)


def checksums(owner: Owner, spec: ModelSpec) -> Raw | None:
    """The checksums as sha256sum writes them; None where there are none."""
    if spec.checksums is None:
        return None
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(spec.checksums.items()))
    name = checksums_config_map(owner.key.name, text)
    return owner.child(CONFIG_MAP, name, COMPONENT_DOWNLOAD, immutable=True, data={"sha256sums": text})


def means(spec: ModelSpec) -> str:
    """Hash of how the weights are fetched, apart from what they are: an attempt by other means is another chance."""
    fields = {
        "mirror",
        "s3_addressing",
        "proxy",
        "no_proxy",
        "ca_config_map_ref",
        "credentials_secret_ref",
        "checksums",
    }
    more = {"node_selector", "tolerations", "image_pull_secrets"}
    return content_hash(spec.model_dump(mode="json", include=fields | more, exclude_none=True))


def job(owner: Owner, spec: ModelSpec, source_hash: str, attempt: int, settings: OperatorSettings) -> Raw:
    """One attempt. Named by its image too, so that one that waits for an image of an older operator is replaced."""
    where, how = spec.where(owner.key.name), means(spec)
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The root of a new volume is root's. It is changed once, not each file at each attempt.
        "securityContext": POD_SECURITY | {"fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"},
        # Time to write down which chunks are there; without it, those in flight are fetched again.
        "terminationGracePeriodSeconds": 30,
        "containers": [_container(owner, spec, where, settings)],
        "volumes": [model_volume(where), *_volumes(owner, spec), TMP_VOLUME],
        **placement(spec, settings),
    }
    return owner.child(
        JOB,
        download_job(owner.key.name, [source_hash, how, *origin_of_image(settings)], attempt),
        COMPONENT_DOWNLOAD,
        labels={LABEL_SOURCE: source_hash, LABEL_MEANS: how, LABEL_ATTEMPT: str(attempt)},
        spec={
            "backoffLimit": 0,  # the operator counts attempts, across Jobs
            "template": {"metadata": {"labels": child_labels(owner.key, COMPONENT_DOWNLOAD)}, "spec": pod},
        },
    )


def _container(owner: Owner, spec: ModelSpec, where: ClaimPath, settings: OperatorSettings) -> Raw:
    flags = {
        "host": "0.0.0.0",
        "port": PORT,
        "revision": spec.revision,
        "mirror": spec.mirror,
        "s3-addressing": spec.s3_addressing,
        "checksums": f"{_CHECKSUMS}/sha256sums" if checksums(owner, spec) else None,
    }
    mounts = [{"name": volume["name"], "mountPath": _MOUNTS[volume["name"]]} for volume in _volumes(owner, spec)]
    return container(
        "download",
        settings.runtime_image,
        settings,
        _environment(spec),
        args=["download", spec.url, where.model_dir, *(f"--{name}={value}" for name, value in flags.items() if value)],
        ports=[{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        resources={"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        volumeMounts=[
            {"name": "model", "mountPath": where.mount_path},
            *(mount | {"readOnly": True} for mount in mounts),
            TMP_MOUNT,
        ],
    )


_MOUNTS: Final = {"checksums": _CHECKSUMS, "ca": _CA}


def _volumes(owner: Owner, spec: ModelSpec) -> list[Raw]:
    """ConfigMaps that the command reads files of."""
    found = []
    if sums := checksums(owner, spec):
        found.append({"name": "checksums", "configMap": {"name": sums["metadata"]["name"]}})
    if ca := spec.ca_config_map_ref:
        items = [{"key": ca.key, "path": "ca.crt"}]
        found.append({"name": "ca", "configMap": {"name": ca.name, "items": items}})
    return found


def _environment(spec: ModelSpec) -> list[Raw]:
    """What the command reads from its environment. A proxy in the spec is taken rather than one in the Secret."""
    found: dict[str, Raw] = {}
    if secret := spec.credentials_secret_ref:
        for key in CREDENTIALS:
            found[key] = {"valueFrom": {"secretKeyRef": {"name": secret.name, "key": key, "optional": True}}}
    if spec.proxy:
        found |= {name: {"value": spec.proxy} for name in ("HTTPS_PROXY", "HTTP_PROXY")}
    if spec.no_proxy:
        found["NO_PROXY"] = {"value": spec.no_proxy}
    if spec.ca_config_map_ref:
        found["SSL_CERT_FILE"] = {"value": f"{_CA}/ca.crt"}
    return [{"name": name, **value} for name, value in found.items()]


def _larger(size: str, live: Raw) -> str:
    present = str(live["spec"].get("resources", {}).get("requests", {}).get("storage", "0"))
    return size if (quantity(size) or 0) > (quantity(present) or 0) else present
