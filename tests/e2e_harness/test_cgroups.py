from pathlib import Path

import pytest

from e2e.harness.cgroups import ControlGroup
from e2e.harness.errors import HarnessError

CONTROLLERS = "cpuset cpu io memory hugetlb pids rdma misc"


def unified(mount: Path, *folders: str, controllers: str = CONTROLLERS) -> ControlGroup:
    """A host with cgroup v2; the kernel would make the files that are made here."""
    for folder in (".", *folders):
        (mount / folder).mkdir(exist_ok=True, parents=True)
        (mount / folder / "cgroup.controllers").write_text(controllers)
    return ControlGroup("wenxin-test", mount)


def test_on_v2_the_controllers_are_handed_down_to_the_kubelets_roots(tmp_path: Path) -> None:
    group = unified(tmp_path, "wenxin-test", "wenxin-test/node1", "wenxin-test/node2")
    group.create(["node1", "node2"])
    for folder in (".", "wenxin-test", "wenxin-test/node1", "wenxin-test/node2"):
        handed = (tmp_path / folder / "cgroup.subtree_control").read_text().split()
        assert handed == ["+cpu", "+cpuset", "+hugetlb", "+io", "+memory", "+pids"]


def test_on_v2_a_missing_controller_is_named(tmp_path: Path) -> None:
    group = unified(tmp_path, controllers="cpu memory pids")
    with pytest.raises(HarnessError, match="offers no cpuset controller"):
        group.create(["node1"])


def test_processes_of_the_group_and_below_are_found(tmp_path: Path) -> None:
    group = unified(tmp_path, "wenxin-test/node1/pod")
    (tmp_path / "wenxin-test" / "cgroup.procs").write_text("")
    (tmp_path / "wenxin-test" / "node1" / "pod" / "cgroup.procs").write_text("0\n4000001\n4000002\n")
    assert group.processes() == [4000001, 4000002]


def test_a_removed_group_leaves_no_folder_and_removing_again_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text(CONTROLLERS)
    (tmp_path / "wenxin-test" / "node1" / "pod").mkdir(parents=True)
    group = ControlGroup("wenxin-test", tmp_path)
    assert group.remains() == [tmp_path / "wenxin-test"]
    group.remove()
    group.remove()
    assert group.remains() == []
