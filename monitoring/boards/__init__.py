"""The dashboards, a module for each page; what can be chosen above them stands in `choices`."""

from collections.abc import Mapping

from monitoring.boards import answer_cache, deployment, engine, fleet, operator
from monitoring.grafana import Dashboard

BOARDS: tuple[Dashboard, ...] = (
    fleet.BOARD,
    deployment.BOARD,
    engine.BOARD,
    answer_cache.BOARD,
    operator.BOARD,
)

NOT_DRAWN: Mapping[str, str] = {}
"""Metrics that no panel shows, and why."""
