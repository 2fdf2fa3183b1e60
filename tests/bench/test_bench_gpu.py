"""The one call for a GPU: parts fail and hang without ending it. Tried on the CPU."""

import json
import sys
import time

import pytest
import torch
from rich.console import Console

from labkit.bench import gpu_models
from labkit.bench.gpu import GPUPart, carry_out, plan
from labkit.bench.gpu_report import print_report
from labkit.cli.bench import gpu as gpu_command
from labkit.errors import LabkitError


def python(name, source, seconds=20.0, figures=None):
    return GPUPart(name, [sys.executable, "-c", source], seconds, figures)


def test_parts_fail_and_hang_and_the_rest_is_measured(tmp_path):
    measured = tmp_path / "good.json"
    write = f"open({str(measured)!r}, 'w').write('{{\"x\": 1}}'); print('done')"
    child = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    seen = []
    start = time.monotonic()
    outcomes = carry_out(
        [
            python("bad", "print('why'); raise SystemExit(3)"),
            python("hangs", child, seconds=1.5),
            python("good", write, figures=measured),
        ],
        tmp_path,
        {"device": "none"},
        on_end=lambda outcome: seen.append(outcome.name),
    )
    assert time.monotonic() - start < 40
    assert [outcome.result for outcome in outcomes] == ["failed", "timeout", "ok"]
    assert [outcome.last for outcome in outcomes] == ["why", "", "done"]
    assert seen == ["bad", "hangs", "good"]
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["environment"] == {"device": "none"}
    assert [part["figures"] for part in kept["parts"]] == [None, None, {"x": 1}]
    assert (tmp_path / "bad.log").read_text() == "why\n"


def test_what_does_not_fit_into_the_time_is_named(tmp_path):
    parts = [python("one", "import time; time.sleep(9)"), python("two", "")]
    outcomes = carry_out(parts, tmp_path, {}, total=1.5)
    assert [outcome.result for outcome in outcomes] == ["timeout", "no time left"]


def test_the_plan(tmp_path):
    parts = {part.name: part for part in plan(tmp_path, "cuda", small=False)}
    assert next(iter(parts)) == "operator"  # the others use it
    assert set(gpu_models.NETWORKS) | {"throughput", "roi-align", "tests", "lessons"} < set(parts)
    assert {"-m", "cuda"} < set(parts["tests"].command)
    assert parts["lessons"].command[-4:-1] == ["--device", "cuda", "--out"]


def test_figures_of_a_network_and_their_table(tmp_path, capsys):
    figures = gpu_models.measure("panoptic_fpn_tiny", torch.device("cpu"), side=64)
    exact, half = figures["float32"], figures["bfloat16"]
    # The same computation twice; then another one, which is not far from it.
    assert exact["same_pixels"] == 1
    assert exact["score_difference"] == exact["loss_difference"] == 0
    assert 0 < half["loss_difference"] < 0.1
    assert 0.9 < half["same_pixels"] < 1
    assert 0 < half["score_difference"] < 0.2
    source = f"open({str(tmp_path / 'x.json')!r}, 'w').write({json.dumps(figures)!r})"
    outcomes = carry_out([python("net", source, figures=tmp_path / "x.json")], tmp_path, {})
    console = Console(record=True, width=160)
    print_report(outcomes, console)
    assert "bfloat16" in console.export_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(LabkitError, match=r"--device cuda needs .* GPU.*labkit doctor"):
        gpu_command(out=tmp_path / "out", minutes=8)
