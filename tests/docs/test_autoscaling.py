"""The page on autoscaling names what the code can say, shows what the API takes and quotes what was measured."""

import json
import re
from pathlib import Path

import yaml

import wenxin_operator
from docs.performance import RESULTS
from wenxin_operator.api.deployment import DeploymentSpec
from wenxin_operator.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "autoscaling.md").read_text(encoding="utf-8")
OPERATOR = Path(wenxin_operator.__file__).parent
REASONS = re.compile(r'(?:SCALING_ACTIVE, |Problem\(|reason=)"([A-Z]\w+)"')


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    (found,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


def test_every_reason_of_the_condition_stands_on_the_page() -> None:
    sources = [(OPERATOR / name).read_text() for name in ("scaling.py", "plan/autoscaler.py")]
    reasons = {reason for source in sources for reason in REASONS.findall(source)}
    assert len(reasons) > 10
    named = {re.sub("`", "", reason) for reason, *_ in rows("reason")}
    assert named - reasons == {"Forbidden", "any other"}
    assert reasons <= named


def test_every_provider_stands_on_the_page() -> None:
    choices = Settings.model_fields["metrics_provider"].annotation.__args__  # type: ignore[union-attr]
    assert [re.findall(r"`(\S+)`", provider)[0] for provider, *_ in rows("provider")] == list(choices)


def test_what_it_shows_is_accepted_and_shows_the_defaults() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    shown = [yaml.safe_load(block)["spec"] for block in blocks]
    first, second = (DeploymentSpec.model_validate({"model": {"ref": "any"}, **spec}) for spec in shown)
    assert first == DeploymentSpec.model_validate({**shown[0], "autoscaling": {"maxReplicas": 8}})
    assert second.autoscaling == first.autoscaling


def test_its_numbers_are_the_measured_ones() -> None:
    results = json.loads((RESULTS / "autoscale.json").read_text())["results"]
    measured = {row["setting"]: row for row in (*results["thresholds"], *results["pace"])}
    for setting, waited, refused, cost in rows("setting"):
        row = measured[setting]
        assert [waited, refused, cost] == [str(row["waited_p95_s"]), f"{row['refused_rate']:.1%}", str(row["cost"])]
