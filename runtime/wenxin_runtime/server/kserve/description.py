"""What the server says of itself and of its model; the keys are those of the protocol's JSON and protobuf alike."""

from typing import Any

from wenxin_runtime import __version__
from wenxin_runtime.errors import EngineDied, ModelNotFound
from wenxin_runtime.server.kserve.inference import VERSION, check_version
from wenxin_runtime.server.kserve.signature import INPUTS, OUTPUTS
from wenxin_runtime.server.kserve.tensors import BYTES
from wenxin_runtime.server.served_model import model_names
from wenxin_runtime.server.service import Service
from wenxin_runtime.server.statistics import Duration

_EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "model_repository(index)", "statistics")
_PLATFORM = "wenxin"


class Description:
    """Answers from what the flags say; nothing here waits for the model to be loaded."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names = model_names(service.config)

    @property
    def live(self) -> bool:
        """Whether the process can still do its work."""
        return not isinstance(self._service.engine.state, EngineDied)

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self._service.why_not_ready is None

    def knows(self, name: str, version: str) -> bool:
        """Whether there is such a model."""
        return name in self._names and version in ("", VERSION)

    def server(self) -> dict[str, Any]:
        """Name this runtime."""
        return {"name": "wenxin", "version": __version__, "extensions": list(_EXTENSIONS)}

    def model(self, name: str, version: str) -> dict[str, Any]:
        """Name a model's tensors.

        Raises:
            ModelNotFound: there is no such model.
        """
        self._check(name, version)
        inputs = [{"name": each.name, "datatype": each.kind.datatypes[0], "shape": [each.dims]} for each in INPUTS]
        outputs = [{"name": each.name, "datatype": each.datatype, "shape": [each.dims]} for each in OUTPUTS]
        return {"name": name, "versions": [VERSION], "platform": _PLATFORM, "inputs": inputs, "outputs": outputs}

    def config(self, name: str, version: str) -> dict[str, Any]:
        """Give a model's configuration as Triton's ModelConfig has it.

        Raises:
            ModelNotFound: there is no such model.
        """
        self._check(name, version)
        inputs = [
            {"name": each.name, "data_type": _type(each.kind.datatypes[0]), "dims": [each.dims], "optional": True}
            for each in INPUTS
        ]
        outputs = [{"name": each.name, "data_type": _type(each.datatype), "dims": [each.dims]} for each in OUTPUTS]
        return {
            "name": name,
            "platform": "",
            "backend": _PLATFORM,
            "max_batch_size": 0,
            "input": inputs,
            "output": outputs,
            "model_transaction_policy": {"decoupled": True},
        }

    def statistics(self, name: str, version: str) -> dict[str, Any]:
        """Tell what was asked of a model, or of all; its names share their counts.

        Raises:
            ModelNotFound: there is no such model.
        """
        if name:
            self._check(name, version)
        seen = self._service.statistics
        entry = {
            "version": VERSION,
            "last_inference": seen.last_inference,
            "inference_count": seen.success.count,
            "execution_count": seen.executions,
            "inference_stats": {
                "success": _duration(seen.success),
                "fail": _duration(seen.fail),
                "queue": _duration(seen.queue),
                "compute_input": _duration(seen.compute_input),
                "compute_infer": _duration(seen.compute_infer),
                "compute_output": _duration(seen.compute_output),
                "cache_hit": _duration(seen.cache_hit),
                "cache_miss": _duration(seen.cache_miss),
            },
        }
        return {"model_stats": [{"name": each, **entry} for each in ([name] if name else self._names)]}

    def index(self, *, only_ready: bool) -> list[dict[str, Any]]:
        """List the models and their states."""
        reason = self._service.why_not_ready
        if reason is not None and only_ready:
            return []
        state = {"state": "READY"} if reason is None else {"state": "UNAVAILABLE", "reason": reason.message}
        return [{"name": name, "version": VERSION, **state} for name in self._names]

    def _check(self, name: str, version: str) -> None:
        if name not in self._names:
            raise ModelNotFound(f"the model {name[:200]!r} does not exist here; served: {', '.join(self._names)}")
        check_version(version, name)


def _type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def _duration(seen: Duration) -> dict[str, int]:
    return {"count": seen.count, "ns": seen.ns}
