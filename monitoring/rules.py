"""Recording rules and alerts as values, and the files that Prometheus reads of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

RUNBOOKS = "docs/runbooks.md"
"""Where an alert's `runbook_url` points, with the alert's name as anchor. The chart puts `monitoring.runbookUrl` in its
place, for only who installs it knows where this page is published."""

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Recording:
    """A query whose answer is kept as a series. Its name says by what it is grouped, of what, and how."""

    record: str
    expr: str

    def body(self) -> dict[str, Any]:
        """As the file says it."""
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """Something that a person should act on.

    Attributes:
        name: Also the anchor of its runbook, in lower case.
        expr: Each series of the answer is one alert.
        wait: For how long it must hold.
        severity: critical: users notice, now. warning: they will, or somebody should look within the day.
        summary: One line, with the labels of what it is about.
        description: What is measured, with the value, and where to look first.
    """

    name: str
    expr: str
    wait: str
    severity: Severity
    summary: str
    description: str

    def body(self) -> dict[str, Any]:
        """As the file says it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOKS}#{self.name.lower()}",
            },
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated one after the other."""

    name: str
    rules: tuple[Recording | Alert, ...]

    def body(self) -> dict[str, Any]:
        """As the file says it."""
        return {"name": self.name, "rules": [rule.body() for rule in self.rules]}

    def alerts(self) -> Iterator[Alert]:
        """The alerts among them."""
        return (rule for rule in self.rules if isinstance(rule, Alert))
