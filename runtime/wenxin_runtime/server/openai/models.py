"""GET /v1/models and /v1/models/{model}."""

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from wenxin_runtime.errors import RequestError
from wenxin_runtime.server.http import error_response, json_response
from wenxin_runtime.server.service import Service


class ModelCard(Struct, frozen=True, tag_field="object", tag="model"):
    """OpenAI's model object; `max_model_len` (tokens) is vLLM's."""

    id: str
    created: int
    max_model_len: int
    owned_by: str = "wenxin"


class ModelList(Struct, frozen=True, tag_field="object", tag="list"):
    """OpenAI's list of models."""

    data: list[ModelCard]


class Models:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def every(self, _: Request) -> Response:
        """List what is served, under each of its names."""
        try:
            return json_response(ModelList(self._cards()))
        except RequestError as error:
            return error_response(error)

    async def one(self, request: Request) -> Response:
        """Show one name."""
        try:
            cards = {card.id: card for card in self._cards()}
            return json_response(cards[self._service.check_model_name(request.path_params["model"])])
        except RequestError as error:
            return error_response(error)

    def _cards(self) -> list[ModelCard]:
        model = self._service.loaded()
        return [ModelCard(name, model.created, self._service.max_model_len) for name in model.names]
