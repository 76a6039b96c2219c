"""The dashboards. What two of them show stands in `latency`; otherwise a module is a page."""

from monitoring.boards import answer_cache, deployment, engine, fleet, operator
from monitoring.grafana import Dashboard

BOARDS: tuple[Dashboard, ...] = (
    fleet.BOARD,
    deployment.BOARD,
    engine.BOARD,
    answer_cache.BOARD,
    operator.BOARD,
)

NOT_DRAWN: dict[str, str] = {
    "wenxin_build_info": "a label of the table of pods, whose value is always 1",
}
"""Metrics that no panel shows, and why."""
