import os

from wenxin_runtime.engine.machine import available_memory, usable_cores


def test_cores_are_cut_to_the_cgroups_quota(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1


def test_without_a_cgroup_the_machine_is_the_limit(tmp_path):
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:   60 kB\n")
    assert available_memory(tmp_path, meminfo) == 60 * 1024


def test_memory_is_cut_to_the_cgroups_limit_and_file_pages_do_not_count(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable:   1000000 kB\n")
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 3000\n")
    assert available_memory(tmp_path, meminfo) == 4000
    (tmp_path / "memory.current").write_text("9000\n")
    assert available_memory(tmp_path, meminfo) == 0


def test_this_machine_has_cores_and_memory():
    assert usable_cores() >= 1
    assert available_memory() > 0
