"""The CRD and the operator's models judge every spec alike: what one refuses, the other refuses."""

import json
from typing import Any

import pytest

from e2e.harness.cluster import Cluster
from e2e.harness.errors import CommandError
from e2e.stories.installation import Operator
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.api.model import ModelSpec
from wenxin_operator.api.parsing import parse
from wenxin_operator.errors import SpecError

GOOD: dict[str, Any] = {"model": {"source": "pvc://weights/ernie"}}
DIGEST = "0" * 64
SMALL: dict[str, Any] = {"preset": "ernie-4.5-0.3b"}
SIZE: dict[str, Any] = {"storage": {"size": "5Gi"}}
WEIGHTS: list[dict[str, Any]] = [
    SMALL, {"preset": "ernie-5"}, {"preset": ""}, SMALL | {"hub": "modelscope"}, SMALL | {"hub": "aistudio"},
    *({"source": source} | SIZE for source in (
        "hf://a/b", "hf://a", "hf://a/b/c", "hf://a/.b", "modelscope://A/b", "https://h/x/", "https://h:0/x", "http://h",
        "https://u@h/x", "https://h/../x", "https://h/x?y", "s3://bucket", "s3://bucket/a/b/", "s3://B/x", "s3://a",
        "ftp://h/x", "pvc://a/b", "hf://a/b\n")),
    {"source": "hf://a/b"}, {"source": "hf://a/b", "storage": {}}, {"source": "hf://a/b", "storage": {"size": "lots"}},
    {"source": "hf://a/b", "storage": {"existingClaim": "mine"}}, SMALL | {"storage": {"existingClaim": "Mine"}},
    SMALL | {"storage": {"existingClaim": "a", "size": 1}},
    SMALL | {"storage": {"existingClaim": "a", "accessModes": []}},
    SMALL | {"storage": {"storageClassName": "fast", "accessModes": ["ReadWriteMany"]}},
    SMALL | {"storage": {"accessModes": []}}, SMALL | {"storage": {"accessModes": ["ReadOnlyMany"]}},
    SMALL | {"storage": {"accessModes": ["ReadWriteOnce", "ReadWriteOnce"]}},
    SMALL | {"revision": "refs/pr/1"}, SMALL | {"revision": ""}, SMALL | {"revision": "a b"},
    SMALL | {"revision": "-x"},
    {"source": "s3://bucket/x", "revision": "v1"} | SIZE, {"source": "pvc://a/b", "revision": "v1"},
    {"source": "hf://a/b", "revision": "v1"} | SIZE, {"source": "hf://a/b", "hub": "hf"} | SIZE,
    {"source": "https://h/x", "mirror": "http://m"} | SIZE, {"source": "s3://bucket/x", "mirror": "http://m"} | SIZE,
    {"source": "s3://bucket/x", "s3Addressing": "virtual"} | SIZE, SMALL | {"s3Addressing": "path"},
    {"source": "s3://bucket/x", "s3Addressing": "both"} | SIZE,
    SMALL | {"mirror": "m"}, SMALL | {"proxy": "http://u:p@p"}, SMALL | {"proxy": "http://p:3128"},
    SMALL | {"noProxy": ""}, SMALL | {"noProxy": "a b"}, SMALL | {"noProxy": ".svc,10.0.0.0/8"},
    SMALL | {"checksums": {"a": "0" * 64}}, SMALL | {"checksums": {"a": "0"}}, SMALL | {"checksums": {"a": "G" * 64}},
    SMALL | {"checksums": {}}, {"source": "pvc://a/b", "checksums": {}},
    SMALL | {"caConfigMapRef": {"name": "a"}}, SMALL | {"caConfigMapRef": {"key": "a"}},
    SMALL | {"caConfigMapRef": {"name": "a", "key": "a/b"}}, SMALL | {"credentialsSecretRef": {"name": "A"}},
    SMALL | {"credentialsSecretRef": {"name": "a"}}, {"source": "pvc://a/b", "credentialsSecretRef": {"name": "a"}},
    {"source": "pvc://a/b", "nodeSelector": {"a": "b"}, "imagePullSecrets": [{"name": "a"}]},
    SMALL | {"tolerations": [{"key": "a", "operator": "Exists"}]}, SMALL | {"tolerations": [{"effect": "Never"}]},
]  # fmt: skip
SPECS: dict[str, list[Any]] = {
    "drain.delay": ["", "5", "5 s", "-5s", "5d", "s", "5s\n", "0s", "1.5s", "1m0.5s", "300s", "301s", "5m1ms", ".5s"],
    "drain.timeout": ["24h", "24h1s", "1440m", "1441m", "99999999999999h"],
    "model.source": ["", "weights/x", "hf://a/b", "pvc://", "pvc:///x", "pvc://W/x", "pvc://w/../x", "pvc://w/x/",
                     "pvc://w//x", "pvc://w/.x", "pvc://w/a b", "pvc://w/_x", "pvc://my.claim", "pvc://w-",
                     "pvc://w/" + "y" * 600],
    "model": [{}, {"ref": "a", "source": "pvc://a/b"}, {"ref": ""}, {"ref": "A"}, {"ref": "a.b"}, {"ref": "a" * 64},
              {"ref": "a", "preset": "ernie-4.5-0.3b"}, {"ref": "a", "mirror": "http://m"},
              {"ref": "a", "nodeSelector": {"a": "b"}}, {"preset": "ernie-4.5-0.3b", "source": "pvc://a/b"},
              *WEIGHTS],
    "parallelism.tensor": [0, 1, 2, 3, 64, 65, "1"],
    "parallelism.expert": [True, "yes"],
    "replicas": [-1, 0, 1000, 1001, 1.5],
    "accelerator": [{"resource": "none", "products": ["A"]}, {"resource": "none", "products": []},
                    {"products": ["A", "A"]}, {"products": [""]}, {"resource": "amd.com/gpu"}, {}],
    "pod.labels": [{"serving.wenxin.io/x": "y"}, {"app.kubernetes.io/name": "y"}, {"a": "b"}, {"a": "b" * 64}],
    "pod.annotations": [{"serving.wenxin.io/x": "y"}, {"a": "b" * 4097}],
    "pod.resources.limits.memory": ["lots", "1Gi", "1.5Gi", 2, "-1", "1e3", "", "0", -2, "1gi"],
    "pod.tolerations": [[{}], [{"effect": "Never"}], [{"operator": "Exists"}], [{"key": "a", "tolerationSeconds": 5}]],
    "pod.topologySpreadConstraints": [[{}], [{"topologyKey": "z"}], [{"topologyKey": "z", "minDomains": 2}],
                                      [{"topologyKey": "z", "maxSkew": 0}]],
    "servedName": ["a b", "", "baidu/ERNIE-4.5", "-a", "a\n"],
    "image": ["a b", "", "x@sha256:1", "x:1", f"x@sha256:{DIGEST}"],
    "engine": [{"maxNumSeqs": 0}, {"maxNumSeqs": 4097}, {"queueSize": 0}, {"maxBatchedTokens": 15},
               {"prefixCaching": "no"}, {"unknown": 1}],
    "maxModelLen": [0, 1, 10_000_001],
    "quantization": ["none", "int8", "int4", "", 8],
    "engine.stallTimeout": ["0s", "5m", "24h", "25h", "5", ""],
    "monitoring": [{}, {"otlpEndpoint": ""}, {"unknown": 1}],
    "monitoring.otlpEndpoint": ["http://c", "https://c.obs.svc.cluster.local:4318/v1/traces", "http://[::1]:4318",
                                "http://10.0.0.1:4318", "http://c:65535", "http://c:65536", "http://c:0",
                                "c.obs.svc:4318", "ftp://c", "http://", "http://c:port", "http://-c", "http://c d",
                                "http://u:p@c", "http://c?x=1", "http://c\n", "http://" + "c" * 600],
}  # fmt: skip


def at(path: str, value: Any) -> dict[str, Any]:
    """A spec that is good but for `value` at `path`."""
    first, *deeper = path.split(".")
    for field in reversed(deeper):
        value = {field: value}
    return GOOD | {first: value}


def taken(cluster: Cluster, spec: dict[str, Any], kind: str = "WenxinDeployment") -> bool:
    typed = {"apiVersion": "serving.wenxin.io/v1alpha1", "kind": kind}
    manifest = json.dumps(typed | {"metadata": {"name": "judged"}, "spec": spec})
    try:
        cluster.kubectl("create", "--dry-run=server", "--filename=-", namespace="default", stdin=manifest)
    except CommandError:
        return False
    return True


@pytest.mark.parametrize("path", SPECS)
def test_the_api_server_and_the_operator_judge_alike(operator: Operator, cluster: Cluster, path: str) -> None:
    del operator
    specs = [at(path, value) for value in SPECS[path]]
    accepted = [not isinstance(parse(DeploymentSpec, spec), SpecError) for spec in specs]
    assert [taken(cluster, spec) for spec in specs] == accepted


def test_a_model_is_judged_alike_too(operator: Operator, cluster: Cluster) -> None:
    del operator
    specs = [{}, {"ref": "a"}, SMALL | {"source": "pvc://a/b"}, *WEIGHTS]
    accepted = [not isinstance(parse(ModelSpec, spec), SpecError) for spec in specs]
    found = [taken(cluster, spec, "WenxinModel") for spec in specs]
    assert [spec for spec, one, other in zip(specs, found, accepted, strict=True) if one != other] == []
