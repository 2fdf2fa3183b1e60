"""In processes of their own: what is imported stays imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROI_ALIGN = """
import torch
features, boxes = torch.rand(1, 2, 8, 8), [torch.tensor([[0.0, 0.0, 6.0, 6.0]])]
def pooled(features):
    return roi_align(features.relu(), boxes, 3, 0.5, 2, aligned=True)
"""


def run(program: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_nothing_of_it_is_imported_before_it_is_used() -> None:
    program = (
        "import sys, labkit.models, labkit.metrics\n"
        "import labkit.engine.predictor, labkit.workbook.worker\n"
        "import jsonschema, torchvision\n"
        "print('torch._dynamo' in sys.modules, 'rfc3987_syntax.syntax_helpers' in sys.modules)\n"
    )
    assert run(program) == "False False\n"


@pytest.mark.parametrize("first", ["", "import torchvision; "])
def test_the_compiler_works(first: str) -> None:
    program = (
        f"{first}import labkit\nfrom torchvision.ops import roi_align\n{ROI_ALIGN}"
        "compiled = torch.compile(pooled, fullgraph=True, backend='aot_eager')\n"
        "print(torch.equal(compiled(features), pooled(features)))\n"
    )
    assert run(program) == "True\n"


def test_torchvisions_question_is_answered_and_the_module_whole_for_others() -> None:
    program = (
        "import labkit, sys, torchvision\n"
        "asked = sys.modules['torchvision.ops.roi_align'].is_compile_supported\n"
        "answers = [asked('cpu'), asked('mps')]\n"
        "from torch._dynamo import utils\n"
        "import torch._dynamo.utils as again\n"
        "real = utils.is_compile_supported\n"
        "print(asked is not real, answers == [real('cpu'), real('mps')])\n"
        "print(utils is again is sys.modules['torch._dynamo.utils'], type(utils).__name__)\n"
    )
    assert run(program) == "True True\nTrue module\n"


def test_who_compiles_without_torchvision_has_the_real_module() -> None:
    program = (
        "import labkit, torch._dynamo, sys\n"
        "from torch._dynamo import utils\n"
        "print(utils is sys.modules['torch._dynamo.utils'], type(utils).__name__)\n"
    )
    assert run(program) == "True module\n"


def test_the_grammar_of_identifiers_is_used_where_a_schema_wants_it() -> None:
    program = (
        "import labkit, jsonschema\n"
        "check = jsonschema.FormatChecker(['iri']).conforms\n"
        "print(check('http://a.example/é', 'iri'), check('no identifier', 'iri'))\n"
    )
    assert run(program) == "True False\n"
