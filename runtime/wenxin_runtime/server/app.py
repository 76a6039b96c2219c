"""The routes of the server."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from wenxin_runtime.server.debug import Debug
from wenxin_runtime.server.http import Envelope, on_http_exception
from wenxin_runtime.server.kserve import http as kserve
from wenxin_runtime.server.openai import chat, completions
from wenxin_runtime.server.openai.chat_writer import ChatWriter
from wenxin_runtime.server.openai.generate import Api, GeneratingEndpoint
from wenxin_runtime.server.openai.models import Models
from wenxin_runtime.server.openai.tokens import Tokens
from wenxin_runtime.server.probes import Probes
from wenxin_runtime.server.service import Service

_CHAT = Api(plan=chat.plan, writer=ChatWriter)
_COMPLETIONS = Api(plan=completions.plan, writer=completions.CompletionWriter)


def build(service: Service) -> ASGIApp:
    """Put the routes together."""
    models, tokens, probes = Models(service), Tokens(service), Probes(service)
    routes = [
        Route("/v1/chat/completions", GeneratingEndpoint(service, _CHAT), methods=["POST"]),
        Route("/v1/completions", GeneratingEndpoint(service, _COMPLETIONS), methods=["POST"]),
        Route("/v1/models", models.every),
        Route("/v1/models/{model:path}", models.one),
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
        Route("/health", probes.health),
        Route("/health/ready", probes.ready),
        Route("/ping", probes.health),
        Route("/load", probes.load),
        Route("/metrics", probes.metrics),
        Route("/version", probes.version),
    ]
    routes += kserve.routes(service)
    if service.config.enable_debug_endpoints:
        debug = Debug(service)
        routes += [Route("/debug/state", debug.state), Route("/debug/profile", debug.profile, methods=["POST"])]
    return Envelope(Starlette(routes=routes, exception_handlers={HTTPException: on_http_exception}), service)
