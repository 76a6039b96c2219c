"""Where weights come from and where they are kept: what a WenxinModel says, and a WenxinDeployment may say inline."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from wenxin_operator import presets
from wenxin_operator.api.fields import (
    ClaimPath,
    Endpoint,
    NodeLabels,
    Part,
    Quantity,
    Source,
    claim_path,
    require,
    rule,
    rules,
)
from wenxin_operator.api.pod import SecretName, Toleration
from wenxin_operator.names import content_hash, weights_claim

_PVC: Final = "pvc://"
_HUBS: Final = ("hf://", "modelscope://")
_CLAIM = "with storage.existingClaim, size, storageClassName and accessModes are that claim's own: leave them out"

Preset = Annotated[
    str,
    require(lambda value: value in presets.PRESETS, f"write one of {', '.join(presets.PRESETS)}"),
    WithJsonSchema({"type": "string", "enum": list(presets.PRESETS)}),
]
Sha256 = Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class ConfigMapKey(Part):
    """One value of a ConfigMap in the same namespace."""

    name: ObjectName
    """The ConfigMap's name."""
    key: str = Field(default="ca.crt", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    """The value's."""


class SecretReference(Part):
    """A Secret in the same namespace."""

    name: ObjectName
    """Its name."""


class Storage(Part):
    """Where downloaded weights are kept."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "!has(self.existingClaim) || (!has(self.size) && !has(self.storageClassName) && !has(self.accessModes))",
            _CLAIM,
        )
    )

    size: Quantity | None = None
    """Size of the claim that the operator makes, such as 50Gi. A preset knows its own. Weights that replace others,
    after a change of source or revision, lie beside them: make it twice as large for that. A larger size grows the
    claim where its class can; a smaller one does nothing."""
    storage_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """StorageClass of that claim. Unset, it is the cluster's default. It counts when the claim is made."""
    access_modes: (
        Annotated[
            tuple[Literal["ReadWriteOnce", "ReadWriteMany"], ...],
            Field(min_length=1, max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}),
            require(lambda value: len(set(value)) == len(value), "name each access mode once"),
        ]
        | None
    ) = None
    """How that claim can be mounted; unset, [ReadWriteOnce], which every class can: all pods that serve the model then
    run on one node, and one that is placed on another waits there for ever. Say [ReadWriteMany] for several nodes,
    where the class has it. It counts when the claim is made."""
    existing_claim: ObjectName | None = None
    """A PersistentVolumeClaim of yours in the same namespace, instead of one that the operator makes. It stays when the
    WenxinModel goes, and other things may lie on it."""

    @model_validator(mode="after")
    def _a_claim_of_yours_has_its_own(self) -> Self:
        if self.existing_claim and (self.size or self.storage_class_name or self.access_modes):
            raise ValueError(_CLAIM)
        return self


@dataclass(frozen=True, slots=True)
class Law:
    """One rule for the API server and for the operator.

    Attributes:
        expression: In CEL.
        holds: The same here.
        message: What to say when it is broken.
    """

    expression: str
    holds: Callable[[Any], bool]
    message: str


def schema_of(laws: Iterable[Law]) -> dict[str, Any]:
    """The laws as json_schema_extra takes them."""
    return rules(*((law.expression, law.message) for law in laws))


def judge(value: Any, laws: Iterable[Law]) -> None:
    """Raise ValueError with the words of the first law that is broken."""
    for law in laws:
        if not law.holds(value):
            raise ValueError(law.message)


_DOWNLOAD = (
    "hub", "revision", "checksums", "mirror", "s3Addressing", "proxy", "noProxy", "caConfigMapRef",
    "credentialsSecretRef", "storage",
)  # fmt: skip
_ALL = (*_DOWNLOAD, "nodeSelector", "tolerations", "imagePullSecrets")


def _given(value: Any, fields: Iterable[str]) -> bool:
    return bool(value.model_dump(by_alias=True, exclude_none=True).keys() & set(fields))


def one_of(*fields: str) -> Law:
    """Exactly one of these says which weights."""
    count = " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)
    words = f"give exactly one of {', '.join(fields[:-1])} and {fields[-1]}"
    return Law(f"{count} == 1", lambda value: sum(_given(value, [field]) for field in fields) == 1, words)


def alone(field: str) -> Law:
    """With this field, all else is another resource's to say."""
    others = " || ".join(f"has(self.{other})" for other in _ALL)
    words = f"with {field}, that WenxinModel says all the rest: leave it out here"
    return Law(
        f"!has(self.{field}) || !({others})", lambda value: not (_given(value, [field]) and _given(value, _ALL)), words
    )


def _starts(value: Any, *prefixes: str) -> bool:
    return value.source is not None and value.source.startswith(prefixes)


_ON_A_CLAIM = Law(
    f"!has(self.source) || !self.source.startsWith('{_PVC}') || !({' || '.join(f'has(self.{x})' for x in _DOWNLOAD)})",
    lambda value: not (_starts(value, _PVC) and _given(value, _DOWNLOAD)),
    f"nothing is downloaded from {_PVC}: leave out {', '.join(_DOWNLOAD)}",
)
_HUB = Law(
    "!has(self.hub) || has(self.preset)",
    lambda value: value.hub is None or value.preset is not None,
    "hub says where a preset is taken from; a source says it itself",
)
_REVISION = Law(
    "!has(self.revision) || !has(self.source) || " + " || ".join(f"self.source.startsWith('{hub}')" for hub in _HUBS),
    lambda value: value.revision is None or value.source is None or _starts(value, *_HUBS),
    f"revision is for {', '.join(_HUBS)} and presets: no other source has any",
)
_MIRROR = Law(
    "!has(self.mirror) || !has(self.source) || !self.source.startsWith('http')",
    lambda value: value.mirror is None or not _starts(value, "http"),
    "mirror is for hubs and s3://; write the mirror's own URL into source",
)
_BUCKETS = Law(
    "!has(self.s3Addressing) || (has(self.source) && self.source.startsWith('s3://'))",
    lambda value: value.s3_addressing is None or _starts(value, "s3://"),
    "s3Addressing is for s3://",
)
_SIZE = Law(
    f"!has(self.source) || self.source.startsWith('{_PVC}') || "
    "(has(self.storage) && (has(self.storage.size) || has(self.storage.existingClaim)))",
    lambda value: (
        value.source is None
        or _starts(value, _PVC)
        or (value.storage is not None and bool(value.storage.size or value.storage.existing_claim))
    ),
    "give storage.size, the space that the download takes, or storage.existingClaim: only a preset's size is known",
)
WEIGHTS_LAWS = (_ON_A_CLAIM, _HUB, _REVISION, _MIRROR, _BUCKETS, _SIZE)


class Weights(Part):
    """Where weights come from."""

    source: Source | None = None
    """Where a checkpoint in Hugging Face's layout is: config.json, *.safetensors, tokenizer.json.

    `pvc://CLAIM/PATH`: the folder PATH of the PersistentVolumeClaim CLAIM in the same namespace. It is only ever
    mounted read-only, so one claim may hold many models. Files must be readable by user 65532.

    `hf://ORGANISATION/NAME`, `modelscope://ORGANISATION/NAME`, `https://HOST/FOLDER/`, `s3://BUCKET/PREFIX`: it is
    downloaded, once, to a claim that the deployments then share."""
    preset: Preset | None = None
    """A released text model of the family, instead of a source: where it is and how large it is are known."""
    hub: Literal["hf", "modelscope"] | None = None
    """Where a preset is taken from; unset, hf."""
    revision: str | None = Field(default=None, min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    """Branch, tag or commit on the hub; unset, its default branch. What a branch means is asked once, when the download
    begins; status.revision says it."""
    checksums: Annotated[dict[str, Sha256], Field(max_length=1024)] | None = None
    """SHA-256 of the checkpoint's files by their path, in hexadecimal; each file must be among them. Unset, files are
    held to what the hub says of them. They are for the download: weights that are verified already are not read again,
    whatever changes here; for that, make another WenxinModel."""
    mirror: Endpoint | None = None
    """URL that the hub's, or the S3 service's, own is replaced with."""
    s3_addressing: Literal["auto", "path", "virtual"] | None = None
    """Where a bucket's name goes: into the path (MinIO) or before the host (OSS, OBS); unset or auto, into the path
    where a mirror or AWS_ENDPOINT_URL is given."""
    proxy: Endpoint | None = None
    """HTTP proxy of the download. One with a password stands in the Secret, as HTTPS_PROXY."""
    no_proxy: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\s]+$")] | None = None
    """Hosts and domains, separated by commas, that are reached without the proxy."""
    ca_config_map_ref: ConfigMapKey | None = None
    """Certificate authorities, in PEM, that are trusted instead of the image's own."""
    credentials_secret_ref: SecretReference | None = None
    """A Secret whose values the download gets as environment, under the same names: HF_TOKEN, MODELSCOPE_API_TOKEN,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, WENXIN_DOWNLOAD_TOKEN (a
    bearer token for https://), HTTPS_PROXY. Those that it lacks are left out. The operator does not read it."""
    storage: Storage | None = None
    """Where a download is kept."""
    node_selector: NodeLabels | None = None
    """Only nodes with all these labels download and inspect: where a volume is bound to a node or a zone, that of the
    pods that will serve it."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] | None = None
    """Taints that do not keep the download and the inspection off a node."""
    image_pull_secrets: Annotated[tuple[SecretName, ...], Field(max_length=16)] | None = None
    """Secrets that the image of the download and the inspection is pulled with."""

    @property
    def downloads(self) -> bool:
        """Whether the weights are to be fetched: they do not lie on a claim already."""
        return self.source is None or not self.source.startswith(_PVC)

    @property
    def url(self) -> str:
        """The source, a preset's included."""
        return self.source or presets.source_of(self.preset or "", self.hub or "hf")

    @property
    def origin(self) -> str:
        """What the weights are, whatever the way they come: the source and its revision."""
        return f"{self.url}@{self.revision}" if self.revision else self.url

    def where(self, model: str) -> ClaimPath:
        """Where they lie, or will: a download's folder is named by what it holds, so that another lies beside it.

        Args:
            model: Name of the WenxinModel. Two of them never share a folder, not even on one claim.
        """
        if not self.downloads:
            return claim_path(self.url)
        claim = (self.storage and self.storage.existing_claim) or weights_claim(model)
        title = re.sub(r"[^A-Za-z0-9._-]", "-", self.url.rstrip("/").rpartition("/")[2])[:64].lstrip(".-") or "weights"
        return ClaimPath(claim, f"{title}-{content_hash([model, self.origin])}")
