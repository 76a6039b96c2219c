"""Nothing that is exposed goes undescribed, and the reference says what the code says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generate import REFERENCE, main, stale_pages, write_pages
from docs.reference_metrics import families
from docs.reference_resources import CRDS, fields_of
from wenxin_operator.settings import Settings
from wenxin_runtime.config import RuntimeConfig

OURS = sorted(CRDS.glob("*.yaml"))


def schema_of(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_reference_is_what_the_code_says() -> None:
    assert list(stale_pages()) == []


def test_a_page_that_is_missing_changed_or_left_over_is_named(tmp_path: Path) -> None:
    write_pages(tmp_path)
    assert list(stale_pages(tmp_path)) == []
    (tmp_path / "reference" / "metrics.md").write_text("old")
    (tmp_path / "reference" / "left-over.md").touch()
    (tmp_path / "performance.md").unlink()
    assert {page.name for page in stale_pages(tmp_path)} == {"metrics.md", "left-over.md", "performance.md"}


def test_the_check_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_field_of_a_resource_is_described(path: Path) -> None:
    fields = fields_of(schema_of(path), "")
    assert [name for name, field, _ in fields if not field.get("description") and _is_ours(name)] == []


def test_every_kind_has_a_schema() -> None:
    assert len(OURS) == 2


def test_every_flag_is_described() -> None:
    specs = [spec for spec in dataclasses.fields(RuntimeConfig) if spec.name != "model_dir"]
    assert [spec.name for spec in specs if not spec.metadata.get("help")] == []


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_metric_is_described_and_named_after_the_project() -> None:
    found = list(families())
    assert [family.name for family in found if not family.documentation] == []
    assert [family.name for family in found if not family.name.startswith("wenxin_")] == []


def test_every_entry_stands_in_the_reference() -> None:
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    names = [
        f"spec.{name.removeprefix('.spec.')}"
        for path in OURS
        for name, _, _ in fields_of(schema_of(path), "")
        if name.startswith(".spec.")
    ]
    names += [family.name for family in families()]
    assert [name for name in names if f"`{name}" not in text] == []


def _is_ours(name: str) -> bool:
    """Kubernetes' own types below spec.pod keep Kubernetes' own descriptions, or none."""
    return name.startswith((".spec", ".status"))
