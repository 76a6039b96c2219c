"""Whole manifests, as they are applied: golden/*.yaml are their documentation.

After a change that is meant, `WRITE_GOLDEN=1 pytest tests/wenxin_operator/test_golden.py` writes them anew; the diff is
what a reviewer reads.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.inspected import EXPERTS, INSPECTED
from tests.wenxin_operator.fake_cluster import NAMESPACE, FakeCluster, claim
from wenxin_operator import observe
from wenxin_operator.names import LEADER_WORKER_SET, WENXIN_DEPLOYMENT, WENXIN_MODEL, Key, Raw
from wenxin_operator.plan import deployment, model_job

GOLDEN = Path(__file__).parent / "golden"

CPU = {
    "model": {"source": "pvc://weights/baidu/ERNIE-4.5-0.3B-PT"},
    "accelerator": {"resource": "none"},
}
GPU = {
    "model": {"ref": "shared"},
    "servedName": "baidu/ERNIE-4.5",
    "image": "registry.example/wenxin/runtime@sha256:" + "0" * 64,
    "replicas": 2,
    "dtype": "bfloat16",
    "quantization": "int8",
    "maxModelLen": 32768,
    "accelerator": {"products": ["NVIDIA-A100-SXM4-80GB", "NVIDIA-H200"]},
    "engine": {
        "maxNumSeqs": 64,
        "queueSize": 200,
        "maxBatchedTokens": 8192,
        "prefixCaching": False,
        "stallTimeout": "2m",
    },
    "drain": {"delay": "2500ms", "timeout": "1h30m"},
    "answerCache": {
        "redis": {"urlSecretRef": {"name": "redis"}, "ports": [6380], "caSecretRef": {"name": "redis"}},
        "ttl": "30m",
        "match": "Deterministic",
    },
    "monitoring": {"otlpEndpoint": "http://collector.observability.svc:4318"},
    "pod": {
        "labels": {"team": "search"},
        "annotations": {"example.com/cost-centre": "42"},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "reserved", "value": "search", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["big"]}]},
                    ]
                }
            }
        },
        "topologySpreadConstraints": [
            {"topologyKey": "topology.kubernetes.io/zone", "minDomains": 2, "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "resources": {"requests": {"memory": "32Gi"}, "limits": {"cpu": 8}},
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}],
    },
}


CACHED = CPU | {"answerCache": {"redis": {"managed": {"memory": "512Mi", "nodeSelector": {"pool": "cpu"}}}}}
NODES = {
    "model": {"source": "pvc://weights/baidu/ERNIE-4.5-300B-A47B-PT"},
    "replicas": 2,
    "parallelism": {"tensor": 16, "nodes": 2},
    "pod": {"topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/rack"}]},
}
NODES_CPU = {
    "model": {"source": "pvc://weights/tiny"},
    "accelerator": {"resource": "none"},
    "parallelism": {"tensor": 2, "nodes": 2},
}
DATA_AND_EXPERTS = {
    "model": {"source": "pvc://weights/baidu/ERNIE-4.5-300B-A47B-PT"},
    "parallelism": {"tensor": 4, "data": 2, "expert": True, "redundantExperts": 8},
}


DOWNLOAD = {
    "source": "hf://baidu/ERNIE-4.5-0.3B-PT",
    "revision": "main",
    "checksums": {"model.safetensors": "a" * 64, "config.json": "b" * 64},
    "mirror": "https://hub.corp.example:8443",
    "proxy": "http://proxy.corp.example:3128",
    "noProxy": ".svc,10.0.0.0/8",
    "caConfigMapRef": {"name": "corp-ca"},
    "credentialsSecretRef": {"name": "hub"},
    "storage": {"size": "10Gi", "storageClassName": "fast", "accessModes": ["ReadWriteMany"]},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "reserved", "value": "search", "effect": "NoSchedule"}],
    "imagePullSecrets": [{"name": "registry"}],
}


async def of_leader_worker_set(spec: Raw) -> tuple[Raw, ...]:
    """The same where the cluster has LeaderWorkerSets."""
    return await of_deployment(spec, FakeCluster(served={LEADER_WORKER_SET}))


async def of_deployment(spec: Raw, cluster: FakeCluster | None = None) -> tuple[Raw, ...]:
    """What is planned for a deployment whose weights are verified."""
    cluster = cluster or FakeCluster()
    claim(cluster)
    if "ref" in spec["model"]:
        cluster.create(WENXIN_MODEL, "shared", {"source": "pvc://weights/ernie"})
    cluster.create(WENXIN_DEPLOYMENT, "ernie", spec)
    await cluster.settle()
    mixture = spec.get("parallelism", {}).get("expert", False)
    cluster.finish_inspection(spec["model"].get("ref", "ernie"), INSPECTED | (EXPERTS if mixture else {}))
    await cluster.settle()
    seen = observe.deployment(Key(WENXIN_DEPLOYMENT, NAMESPACE, "ernie"), cluster)
    assert seen is not None
    return deployment.plan(seen, cluster.settings, cluster.now).objects


async def of_model(spec: Raw) -> tuple[Raw, ...]:
    """What is planned for a model that nothing is known of."""
    cluster = FakeCluster()
    claim(cluster)
    cluster.create(WENXIN_MODEL, "ernie-4.5", spec)
    if "source" not in spec or not spec["source"].startswith("pvc://"):
        await cluster.run(WENXIN_MODEL, "ernie-4.5")  # makes the claim, on which the Job depends
    seen = observe.model(Key(WENXIN_MODEL, NAMESPACE, "ernie-4.5"), cluster)
    assert seen is not None
    return model_job.plan(seen, cluster.settings, cluster.now).objects


HEADER = "# The first document is what a user writes, the others what the operator makes of it.\n"


class _Readable(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml calls it so
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


@pytest.mark.parametrize(
    ("name", "planned", "spec"),
    [
        ("cpu", of_deployment, CPU),
        ("gpu", of_deployment, GPU),
        ("cached", of_deployment, CACHED),
        ("experts", of_deployment, DATA_AND_EXPERTS),
        ("groups", of_deployment, NODES),
        ("groups-cpu", of_deployment, NODES_CPU),
        ("groups-lws", of_leader_worker_set, NODES),
        ("model", of_model, {"source": "pvc://weights/baidu/ERNIE-4.5-0.3B-PT"}),
        ("download", of_model, DOWNLOAD),
        ("download-preset", of_model, {"preset": "ernie-4.5-21b-a3b", "hub": "modelscope"}),
    ],
)
async def test_manifests_are_exactly_these(name: str, planned: Any, spec: Raw) -> None:
    objects = list(await planned(spec))
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("WRITE_GOLDEN"):
        given = {"spec": spec}
        text = yaml.dump_all([given, *objects], Dumper=_Readable, sort_keys=False, width=120)
        path.write_text(
            f"# The first document is what a user writes, the others what the operator makes of it.\n{text}"
        )
    expected_spec, *expected = yaml.safe_load_all(path.read_text())
    assert expected_spec == {"spec": spec}
    assert objects == expected
