"""Another backbone, with an untrained model and with labkit's own in place of the student's."""

import pytest
from helpers.played import failed, lost, own, play

NAME = "a3_backbones"
COMPUTED = ("maps", "budget", "gradients", "swap", "bootstrap")


def untrained(namespace):
    model = namespace["swap_trunk"](namespace["original"], namespace["Trunk"]())
    namespace["model"] = model.eval()


def played(edits=(), **options):
    return play(NAME, edits, instead={"training": untrained}, **options)


def test_the_solution_passes_its_public_checks_and_earns_what_needs_no_training(tmp_path):
    checks = []
    assert lost(NAME, played(checks=checks), tmp_path, only=COMPUTED) == {}
    assert failed(checks) == []


def test_an_untrained_model_earns_nothing_for_its_pictures(tmp_path):
    assert lost(NAME, played(), tmp_path, only=("pq",)) == {"pq": 5}


def test_a_good_model_earns_everything_if_its_trunk_is_ones_own(tmp_path):
    namespace = played()
    original = namespace["original"]
    mine = own(namespace, model=original, Trunk=type(original.backbone.bottom_up))
    assert lost(NAME, mine, tmp_path, only=("pq",)) == {}
    borrowed = own(namespace, model=original)
    assert lost(NAME, borrowed, tmp_path, only=("pq",)) == {"pq": 5}


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ({"expansion=2": "expansion=4"}, {"budget": 1}),
        ({"        inputs = widths[0]\n": "        inputs = widths[0]\n        self.idle = nn.Linear(3, 3)\n"}, {"gradients": 1}),  # noqa: E501
        ({'1 if name == "res2" else 2)': "2)"}, {"maps": 2}),
        # The given model is changed.
        ({"copy.deepcopy(model)": "model"}, {"swap": 3}),
        # A fresh pyramid.
        ({"_ = pyramid.load_state_dict(fits, strict=False)": "pass"}, {"swap": 3}),
        # Classes that do not occur count as 0.
        ({"/ occurs.sum(axis=1)": "/ occurs.shape[1]"}, {"bootstrap": 3}),
        ({"- pq(np.asarray(counts_b))": "- pq(np.asarray(counts_b)[::-1])"}, {"bootstrap": 3}),
    ],
)  # fmt: skip
def test_mistakes(edits, expected, tmp_path):
    assert lost(NAME, played(edits), tmp_path, only=COMPUTED) == expected
