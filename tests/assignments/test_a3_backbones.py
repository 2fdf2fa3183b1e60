"""Another backbone, with an untrained model and with labkit's own in place of the student's."""

import copy

import pytest
import torch
from helpers.played import failed, hints, lost, own, play, scored

NAME = "a3_backbones"
COMPUTED = (
    "maps", "budget", "gradients", "swap", "flaws", "plan", "test", "seeds", "verdict"
)  # fmt: skip


def untrained(namespace):
    model = namespace["swap_trunk"](namespace["original"], namespace["Trunk"]())
    namespace["model"] = model.eval()


class StandIn(torch.nn.Module):
    """labkit's trained trunk without labkit's classes, for a good trunk of a student."""

    def __init__(self, trunk):
        super().__init__()
        graph = torch.fx.symbolic_trace(trunk).graph
        self.traced = torch.fx.GraphModule(trunk, graph, "Traced")
        self.channels, self.strides = trunk.channels, trunk.strides

    def forward(self, x):
        return self.traced(x)


def well_trained(namespace):
    """The namespace as a student leaves it whose model is as good as the original."""
    model = copy.deepcopy(namespace["original"])
    model.backbone.bottom_up = StandIn(model.backbone.bottom_up)
    return own(namespace, model=model, Trunk=StandIn)


def played(edits=(), **options):
    return play(NAME, edits, instead={"training": untrained}, **options)


def test_the_solution_passes_its_public_checks_and_earns_what_needs_no_training(tmp_path):
    checks = []
    assert lost(NAME, played(checks=checks), tmp_path, only=COMPUTED) == {}
    assert failed(checks) == []


def test_an_untrained_model_earns_nothing_for_its_images(tmp_path):
    assert lost(NAME, played(), tmp_path, only=("pq",)) == {"pq": 4}


def test_a_good_model_earns_everything_if_its_trunk_is_ones_own(tmp_path):
    namespace = played()
    mine = well_trained(namespace)
    assert lost(NAME, mine, tmp_path, only=("pq",)) == {}
    # Also with a predictor, a copy of the model, that was made before.
    edits = {"def predict(image):": "before = Predictor(model)\n\ndef predict(image):", "Predictor(model)(image)": "before(image)"}  # fmt: skip  # noqa: E501
    earlier = well_trained(played(edits))
    earlier["before"] = namespace["Predictor"](earlier["model"])
    assert lost(NAME, earlier, tmp_path, only=("pq",)) == {}


def test_labkit_s_own_trunk_earns_nothing(tmp_path):
    namespace = played()
    original = namespace["original"]
    borrowed = own(namespace, model=original)
    assert lost(NAME, borrowed, tmp_path, only=("pq",)) == {"pq": 4}
    # Called by the name of the student's.
    renamed = own(namespace, model=original, Trunk=type(original.backbone.bottom_up))
    assert lost(NAME, renamed, tmp_path, only=("pq",)) == {"pq": 4}


@pytest.mark.parametrize("other", ["original", 'load_model("upsnet_tiny")'])
def test_another_model_s_answers_earn_nothing(other, tmp_path):
    """`model` stands on the student's trunk, but is not asked."""
    namespace = played({"Predictor(model)(image)": f"Predictor({other})(image)"})
    (result,) = [
        p for p in scored(NAME, namespace, tmp_path, only=("pq",)).probes if p.name == "pq"
    ]
    assert result.points == 0
    assert "Which model does it ask" in result.hint


def test_another_model_beside_ones_own_earns_nothing(tmp_path):
    edits = {"panoptic = Predictor(model)(image).panoptic": "_ = Predictor(model)(image)\n    panoptic = Predictor(original)(image).panoptic"}  # fmt: skip  # noqa: E501
    assert lost(NAME, played(edits), tmp_path, only=("pq",)) == {"pq": 4}


@pytest.mark.parametrize(
    ("edits", "hint"),
    [
        ({"for s in panoptic.segments]": "for s in panoptic.segments if s.label < 3]"}, "of stuff"),
        ({'"label": s.label}': '"label": s.label + 1}'}, "the first class"),
    ],
)
def test_mistakes_of_predict(edits, hint, tmp_path):
    mine = well_trained(played(edits))
    assert lost(NAME, mine, tmp_path, only=("pq",))["pq"] > 1
    assert hint in hints(NAME, mine, tmp_path, only=("pq",))["pq"]


def test_a_model_on_the_trunk_of_the_original_is_named(tmp_path):
    namespace = played()
    borrowed = own(namespace, model=namespace["original"])
    assert hints(NAME, borrowed, tmp_path, only=("pq",)) == {
        "pq": "On which trunk does `model` stand?"
    }


@pytest.mark.parametrize(
    ("probe", "edits", "gap", "hint"),
    [
        (
            "maps",
            {"StandardConv2d(3, widths[0], 5, 2)": "StandardConv2d(3, widths[0], 5, 4)"},
            1,
            "half as large",
        ),
        (
            "maps",
            {
                "self.channels = {f": 'self.channels = {f"res{level}": 2 * width for level, width in enumerate(widths, 2)}\n        channels = {f',  # noqa: E501
                "in self.channels.items():": "in channels.items():",
            },
            1,
            "agree with the maps",
        ),
        (
            "maps",
            {"2**level for level in range(2, 6)": "2**level // 2 for level in range(2, 6)"},
            1,
            "Which stride",
        ),
        ("budget", {"expansion=2": "expansion=4"}, 1, "Count the weights"),
        (
            "gradients",
            {
                "        inputs = widths[0]\n": "        inputs = widths[0]\n        self.idle = nn.Linear(3, 3)\n"  # noqa: E501
            },
            1,
            "does not use",
        ),
        ("swap", {"copy.deepcopy(model)": "model"}, 3, "still the same"),
        ("swap", {"_ = pyramid.load_state_dict(fits, strict=False)": "pass"}, 3, "same shape"),
        (
            "swap",
            {'name.startswith("bottom_up.")': 'name.startswith(("bottom_up.", "lateral")) '},
            3,
            None,
        ),
        ("flaws", {'if one["seed"] == other["seed"]:': "if True:"}, None, "of the same seed"),
        ("flaws", {"or len(set(first)) < len(first)": ""}, None, "occurs twice"),
        (
            "flaws",
            {'run["measure"][0]) < min(': 'run["measure"][0]) <= min('},
            None,
            "contain its end",
        ),
        (
            "plan",
            {"range(int(budget / (of_all * steps)))": "range(3)"},
            None,
            "budget left for more seeds",
        ),
        (
            "plan",
            {"min(int(budget / (3 * of_all * 50)) * 50, max_steps)": "max_steps"},
            None,
            "Which is increased first",
        ),
        (
            "plan",
            {
                "min(int(budget / (3 * of_all * 50)) * 50, max_steps)": "50 if budget >= 150 * of_all else 0"  # noqa: E501
            },
            None,
            "more steps",
        ),
        (
            "plan",
            {"budget / (of_all * steps)": "budget / (max(seconds.values()) * steps)"},
            None,
            "added up",
        ),
        ("plan", {"[images * 2 // 3, images]": "[0, images]"}, None, "be in `measure`"),
        (
            "plan",
            {'"train": [0, images * 2 // 3]': '"train": [0, images // 3]'},
            None,
            "Which part",
        ),
        (
            "test",
            {"np.abs(signs @ d) >= abs(d.sum()) - 1e-9": "signs @ d >= d.sum() - 1e-9"},
            None,
            "b were better",
        ),
        ("test", {"abs(d.sum()) - 1e-9": "abs(d.sum()) + 1e-9"}, 2, "observed choice"),
        (
            "test",
            {
                "signs = np.array(list(itertools.product((1, -1), repeat=len(d))))": "pool = np.array([*a, *b], float)\n    signs = np.array([[1.0 if k in c else -1.0 for k in range(len(pool))] for c in itertools.combinations(range(len(pool)), len(a))])",  # noqa: E501
                "np.abs(signs @ d)": "np.abs(signs @ pool)",
            },
            None,
            "scores of different seeds",
        ),
        (
            "seeds",
            {
                "spread = (np.asarray(a, float) - np.asarray(b, float)).std(ddof=1)": "spread = np.hypot(np.std(a, ddof=1), np.std(b, ddof=1))"  # noqa: E501
            },
            None,
            "the deviation",
        ),
        ("seeds", {"1 - alpha / 2)": "1 - alpha)"}, None, "two-sided"),
        ("seeds", {"max(by_power, by_test)": "by_power"}, None, "so few seeds"),
        ("verdict", {'set(flaws(runs)) - {"few seeds"}': "False"}, None, "examined before"),
        ("verdict", {"2 / 2 ** len(a) > alpha": "False"}, None, "three seeds"),
        ("verdict", {"sum(a) > sum(b)": "sum(a) < sum(b)"}, None, "larger mean"),
    ],
)
def test_mistakes(probe, edits, gap, hint, tmp_path):
    namespace = played(edits)
    found = lost(NAME, namespace, tmp_path, only=(probe,))
    assert found[probe] > 0 if gap is None else found == {probe: gap}
    if hint is not None:
        assert hint in hints(NAME, namespace, tmp_path, only=(probe,))[probe]


@pytest.mark.parametrize(
    ("edits", "gap"),
    [
        # Fair and within the budget, but with too few images: half of the points of its cases.
        ({'"train": [0, images * 2 // 3]': '"train": [0, images // 3]'}, 0.875),
        # Unfair, or too expensive.
        ({'"measure": [images * 2 // 3, images]': '"measure": [images // 2, images]'}, 1.75),
        ({"for backbone in seconds\n": "for backbone in list(seconds)[1:]\n"}, 1.75),
        ({"range(int(budget / (of_all * steps)))": "range(int(budget / (of_all * steps)) + 1)"}, 1.75),  # noqa: E501
        # Nothing at all.
        ({"if steps == 0:": "if True:"}, 2),
    ],
)  # fmt: skip
def test_a_plan_earns_what_it_deserves(edits, gap, tmp_path):
    assert lost(NAME, played(edits), tmp_path, only=("plan",)) == {"plan": gap}
