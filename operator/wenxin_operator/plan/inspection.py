"""The Job that reads a checkpoint on a claim, and tells what it is."""

from wenxin_operator.api.model import ModelSpec
from wenxin_operator.names import (
    COMPONENT_INSPECT,
    JOB,
    LABEL_ATTEMPT,
    LABEL_SOURCE,
    Raw,
    child_labels,
    inspect_job,
)
from wenxin_operator.plan.manifest import (
    POD_SECURITY,
    TMP_MOUNT,
    TMP_VOLUME,
    OperatorSettings,
    Owner,
    container,
    model_mount,
    model_volume,
    origin_of_image,
    pull_secrets,
)


def job(owner: Owner, spec: ModelSpec, source_hash: str, attempt: int, settings: OperatorSettings) -> Raw:
    """One attempt. It stays after its end: its pod holds the words that the status repeats.

    It is named by what it reads and by its image: a Job that waits for an image of an older operator is replaced.
    """
    where, model = spec.where(owner.key.name), owner.key.name
    inspect = container(
        "inspect",
        settings.runtime_image,
        settings,
        args=["inspect", where.model_dir],
        resources={"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        volumeMounts=[model_mount(where), TMP_MOUNT],
    )
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [inspect],
        "volumes": [model_volume(where), TMP_VOLUME],
        **placement(spec, settings),
    }
    return owner.child(
        JOB,
        inspect_job(model, [source_hash, *origin_of_image(settings)], attempt),
        COMPONENT_INSPECT,
        labels={LABEL_SOURCE: source_hash, LABEL_ATTEMPT: str(attempt)},
        spec={
            "backoffLimit": 0,  # the operator counts attempts, across Jobs
            "template": {"metadata": {"labels": child_labels(owner.key, COMPONENT_INSPECT)}, "spec": pod},
        },
    )


def placement(spec: ModelSpec, settings: OperatorSettings) -> Raw:
    """Where the pods of a model's Jobs may run, and how their image is pulled. What says nothing is left out."""
    asked = {"node_selector", "tolerations", "image_pull_secrets"}
    given = spec.model_dump(mode="json", by_alias=True, exclude_none=True, include=asked)
    given["imagePullSecrets"] = pull_secrets(settings, given.get("imagePullSecrets", ()))
    return {field: value for field, value in given.items() if value}
