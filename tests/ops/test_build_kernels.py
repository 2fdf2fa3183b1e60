"""Compiling at first use: the cache, several processes, and where it cannot be done."""

import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from labkit.errors import LabkitError
from labkit.ops import build_kernels
from labkit.system import compiled_library
from labkit.system.compiled_library import BuildError

POOL = """
import torch
from labkit.ops import roi_align
box = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
print(roi_align(torch.ones(1, 1, 8, 8), box, 2, sampling_ratio=2).sum().item())
"""


@pytest.fixture(scope="module")
def path_of_compiler(tmp_path_factory):
    """A PATH whose compiler compiles once and then copies: what is tested is what follows."""
    folder = tmp_path_factory.mktemp("compiler")
    compiler = next(filter(None, map(shutil.which, compiled_library.HOST_COMPILERS)))
    kept, made = folder / "kept.so", compiled_library.LIBRARY
    _script(
        folder / compiled_library.HOST_COMPILERS[0],
        f"#!/bin/sh\n[ -f {kept} ] && exec cp {kept} {made}\n"
        f'{compiler} "$@" && cp {made} {kept}.part && mv {kept}.part {kept}\n',
    )
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def compiles_once(monkeypatch, path_of_compiler):
    monkeypatch.setenv("PATH", path_of_compiler)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LABKIT_CACHE", str(folder))
    return folder


def _run_pool(**environment):
    """What a user's script prints, and what it says beside that."""
    result = subprocess.run(
        [sys.executable, "-c", POOL],
        capture_output=True, text=True, env={**os.environ, **environment}, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "4.0"
    return result.stderr.strip().splitlines()


def _script(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.usefixtures("compiles_once")
def test_first_call_compiles_and_the_next_process_finds_it(cache, tmp_path):
    assert not cache.exists()
    (notice,) = _run_pool()
    (home,) = cache.iterdir()
    assert notice == f"labkit: compiling RoIAlign for cpu, once: {home}"
    # The second process has no use for a compiler: this one would leave a trace.
    trace = tmp_path / "called"
    compiler = _script(tmp_path / "c++", f"#!/bin/sh\ntouch {trace}\nexit 1\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert _run_pool(PATH=path) == []
    assert compiler
    assert not trace.exists()


def test_processes_that_compile_at_once(cache):
    with ThreadPoolExecutor(2) as pool:
        notices = list(pool.map(lambda _: _run_pool(), range(2)))
    assert all(len(lines) <= 1 for lines in notices)
    (home,) = cache.iterdir()
    assert sorted(p.name for p in home.iterdir()) == ["library.sha256", "library.so"]
    assert _run_pool() == []


def test_an_interrupted_build_leaves_nothing_to_load(cache, monkeypatch):
    def interrupt(command, folder):
        (folder / compiled_library.LIBRARY).write_bytes(b"half a library")
        raise KeyboardInterrupt

    monkeypatch.setattr(compiled_library, "run_compiler", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_kernels.build_kernels("cpu")
    assert list(cache.iterdir()) == []


def test_no_compiler(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found; `labkit doctor`"):
        build_kernels.build_kernels("cpu")
    monkeypatch.setenv("CXX", "clang++-99 -v")
    with pytest.raises(BuildError, match=r"CXX names clang\+\+-99, which is not there"):
        build_kernels.build_kernels("cpu")


def test_broken_compiler_falls_back_with_one_line(cache, tmp_path):
    compiler = _script(
        tmp_path / "broken", "#!/bin/sh\necho 'x.h:1: fatal error: no such file' >&2\nexit 1\n"
    )
    notice, line = _run_pool(CXX=compiler)
    assert notice.startswith("labkit: compiling")
    assert line == (
        "labkit: RoIAlign on cpu runs in plain PyTorch, slower: "
        f"{compiler} failed: x.h:1: fatal error: no such file"
    )
    assert list(cache.iterdir()) == []


def test_compiler_that_is_too_old(cache, tmp_path):
    # What a compiler before C++17 says of the first flag it does not know, and its status.
    compiler = _script(
        tmp_path / "old",
        "#!/bin/sh\necho \"cc1plus: error: unrecognized option '-std=c++17'\" >&2\nexit 1\n",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", compiler)
        with pytest.raises(BuildError, match="old failed: cc1plus: error: unrecognized"):
            build_kernels.build_kernels("cpu")


def test_compiler_without_a_message(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", _script(tmp_path / "mute", "#!/bin/sh\nexit 3\n"))
    with pytest.raises(BuildError, match="mute failed: exit status 3"):
        build_kernels.build_kernels("cpu")
    monkeypatch.setenv("CXX", _script(tmp_path / "text", "not a program"))
    with pytest.raises(BuildError, match="cannot be run"):
        build_kernels.build_kernels("cpu")


@pytest.mark.usefixtures("compiles_once")
@pytest.mark.parametrize("kind", ["a file", "read-only"])
def test_cache_that_cannot_be_written(tmp_path, kind):
    folder = tmp_path / "cache"
    if kind == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write to read-only folders; run the tests as another user")
    notice, line = _run_pool(LABKIT_CACHE=str(folder))
    assert notice.startswith("labkit: compiling")
    assert re.fullmatch(
        rf"labkit: {folder} cannot be written \(.*\); built for this process alone", line
    )


@pytest.mark.usefixtures("compiles_once")
def test_damaged_library_is_made_again(cache):
    # Loading it would end the process with a bus error.
    whole = build_kernels.build_kernels("cpu").path.read_bytes()
    (library,) = cache.glob("*/library.so")
    library.write_bytes(whole[:1000])
    (notice,) = _run_pool()
    assert notice.startswith("labkit: compiling")
    assert len(library.read_bytes()) == len(whole)
    library.with_name("library.sha256").unlink()
    assert build_kernels.build_kernels("cpu").seconds > 0


@pytest.mark.usefixtures("compiles_once")
def test_the_first_of_two_builds_stays(cache):
    home = build_kernels.build_kernels("cpu").path.parent
    work = cache / "work"
    work.mkdir()
    (work / compiled_library.LIBRARY).write_bytes(b"later")
    compiled_library._publish(work, home)
    assert compiled_library._intact(home)


def test_everything_the_library_depends_on_is_in_its_name(monkeypatch, tmp_path):
    before = build_kernels._key("cpu")
    assert build_kernels._key("cpu") == before
    monkeypatch.setattr(build_kernels.torch, "__version__", "9.9")
    assert build_kernels._key("cpu") != before
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "clang++")
    assert build_kernels._key("cpu") != before
    monkeypatch.undo()
    copy = tmp_path / "csrc"
    copy.mkdir()
    for source in build_kernels.CSRC.iterdir():
        (copy / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(build_kernels, "CSRC", copy)
    assert build_kernels._key("cpu") == before
    (copy / "box.h").write_text("// changed\n")
    assert build_kernels._key("cpu") != before


def test_architectures_are_torchs_variables(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert build_kernels.architectures("cuda") == ["8.0", "9.0+PTX"]
    monkeypatch.setenv("PYTORCH_ROCM_ARCH", "gfx90a")
    assert build_kernels.architectures("hip") == ["gfx90a"]
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setattr(build_kernels.torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabkitError, match=r"no GPU is visible; .*TORCH_CUDA_ARCH_LIST"):
        build_kernels.architectures("cuda")


@pytest.mark.usefixtures("compiles_once")
def test_command_builds_and_says_what(cache):
    command = [sys.executable, "-m", "labkit", "build"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, folder in (("cpu", "roi_align-cpu"), ("panoptic PNGs", "panoptic_maps")):
        (library,) = cache.glob(f"{folder}-*/library.so")
        assert re.search(rf"{name}: compiled in [\d.]+ s: {library}", first)
        assert f"{name}: already built: {library}" in second


def test_command_shows_what_the_compiler_said(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", _script(tmp_path / "bad", "#!/bin/sh\necho 'the log'\nexit 2\n"))
    result = subprocess.run(
        [sys.executable, "-m", "labkit", "build"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "the log" in result.stderr
    assert "bad failed: exit status 2" in result.stderr
