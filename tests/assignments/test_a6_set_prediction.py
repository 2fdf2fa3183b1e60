"""Set prediction: what a mistake in a cost, a loss, a mask or a rule costs."""

import numpy as np
import pytest
from helpers.played import failed, load, lost, play
from scipy.optimize import linear_sum_assignment

NAME = "a6_set_prediction"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # GIoU of centres and sides.
        ({"giou(corners(a), corners(b))\n    return torch": "giou(a, b)\n    return torch"}, {"cost": 2, "cost-padding": 1}),  # noqa: E501
        # The focal loss of the target 1 alone.
        ({"2 * (positive - negative)": "2 * positive"}, {"cost": 2, "cost-padding": 1}),
        # The logarithm of the rounded probability.
        ({"-F.logsigmoid(-z)": "-torch.log(1 - torch.sigmoid(z))"}, {"cost-padding": 0.5}),
        # Padding costs what a box at the corner costs.
        ({"return torch.where(valid[:, None], cost, 0.0)": "return cost"}, {"cost-padding": 0.5}),
        # The price rises by epsilon alone.
        ({"np.delete(expense, q).min() - expense[q] + epsilon": "epsilon"}, {"auction": 2}),
        # The loser bids again at once.
        ({"waiting.append(object_of[q])": "waiting.insert(0, object_of[q])"}, None),
        # The bound without what the prices themselves cost.
        ({".sum() - prices.sum()": ".sum()"}, {"bound": 1}),
        # A crowd silences matched queries, too.
        ({"weight[image, query] = 1.0": "weight[image, query] = torch.where(on_crowd[image, query], 0.0, 1.0)"}, None),  # noqa: E501
        # No crowds.
        ({"torch.where(on_crowd, 0.0, float(eos_coef))": "torch.full(on_crowd.shape, float(eos_coef))"}, {"losses": 2, "gradients": 1}),  # noqa: E501
        # The number of rows, padding included.
        ({"max(int((gt_labels >= 0).sum()), 1)": "gt_labels.numel()"}, None),
        # The number of pairs, without the objects that got no query.
        ({"max(int((gt_labels >= 0).sum()), 1)": "max(len(query), 1)"}, None),
        # No gradient for the boxes.
        ({'"loss_bbox": 5 * (a - b)': '"loss_bbox": 5 * (a - b).detach()'}, {"gradients": 1}),
        # Half a side for the sides as well.
        ({"reach = torch.cat([w_h / 2, w_h], dim=1)": "reach = torch.cat([w_h, w_h], dim=1) / 2"}, {"denoising": 1}),  # noqa: E501
        ({"* reach).clamp(0, 1)": "* reach)"}, {"denoising": 1}),
        # Rows and columns exchanged.
        ({"return ~ordinary & (group[:, None] != group)": "return (~ordinary & (group[:, None] != group)).T"}, {"attention": 2 / 3}),  # noqa: E501
        # Groups see one another.
        ({"return ~ordinary & (group[:, None] != group)": "return ~ordinary & ordinary[:, None]"}, None),  # noqa: E501
        # The nearest object, taken or not.
        ({"free = [g for g in near if g not in taken]": "free = [g for g in sorted(near, key=lambda g: -float(iou[p, g]))[:1] if g not in taken]"}, {"outcomes": 5 / 3, "nms": 0.5}),  # noqa: E501
        # Above the threshold.
        ({"iou[p, g] >= threshold": "iou[p, g] > threshold"}, {"outcomes": 5 / 3, "nms": 1}),
        # Classes do not matter.
        ({"if gt_labels[g] == labels[p] and": "if"}, {"outcomes": 5 / 3, "nms": 1}),
        # In the order of the list.
        ({"for p in scores.argsort(descending=True, stable=True).tolist():": "for p in range(len(scores)):"}, {"outcomes": 5 / 3}),  # noqa: E501
        # NMS across classes.
        ({"batched_nms(boxes, scores, labels, nms_thresh)": "batched_nms(boxes, scores, labels * 0, nms_thresh)"}, {"nms": 1}),  # noqa: E501
        # Every query has the weight 1.
        ({"objects + eos_coef * (copies": "objects + (copies"}, {"copies": 5 / 6}),
        # No-object queries take part.
        ({"selected = (label < pred_logits.shape[1] - 1) & ": "selected = "}, {"map": 5 / 3, "map-duplicates": 1}),  # noqa: E501
        # Every pixel has a winner.
        ({"winner[largest <= 0] = -1": "pass"}, {"map": 5 / 3, "map-duplicates": 1}),
        # Duplicates of every class.
        ({"label[k] == label[q] and mask_iou": "mask_iou"}, {"map": 5 / 3, "map-duplicates": 1}),
        # No suppression.
        ({"label[q] >= things or not any(": "True or not any("}, {"map-duplicates": 1}),
        # Each query of stuff a segment of its own.
        ({'if c < things else ("stuff", c)': 'if c < things else ("stuff", q)'}, {"map": 5 / 3, "map-duplicates": 1}),  # noqa: E501
        # Equal to min_area is too small.
        ({">= max(min_area, 1)": "> max(min_area, 1)"}, {"map": 1, "map-duplicates": 0.6}),
    ],
)  # fmt: skip
def test_mistakes(edits, expected, tmp_path):
    found = lost(NAME, play(NAME, edits), tmp_path)
    if expected is None:  # some of the cases show it, by chance
        assert len({name.split("-")[0] for name in found}) <= 2
        assert found
    else:
        assert found == {name: pytest.approx(points, abs=1e-6) for name, points in expected.items()}


def test_the_auction_keeps_its_promise():
    auction, bound = (play(NAME)[name] for name in ("auction", "lower_bound"))
    random = np.random.default_rng(0)
    for epsilon in (0.01, 0.3):
        for _ in range(20):
            cost = random.normal(size=(7, 5))
            found = auction(cost, epsilon)
            total = cost[found["query_of"], range(5)].sum()
            optimum = cost[linear_sum_assignment(cost)].sum()
            assert len(set(found["query_of"])) == 5
            assert optimum - 1e-9 <= total <= optimum + 5 * epsilon
            assert total - 5 * epsilon - 1e-9 <= bound(cost, found["prices"]) <= optimum + 1e-9


def test_an_optimal_matching_is_no_auction(tmp_path):
    def solved(cost, epsilon):
        query_of = np.empty(cost.shape[1], int)
        queries, objects = linear_sum_assignment(cost)
        query_of[objects] = queries
        return {"query_of": query_of, "prices": np.zeros(len(cost)), "bids": cost.shape[1]}

    def instead(namespace):
        namespace["auction"] = solved

    namespace = play(NAME, instead={"auction": instead})
    assert lost(NAME, namespace, tmp_path, only=("auction",)) == {"auction": 2}


def test_the_references_agree_with_labkit_where_both_exist():
    """The loss without crowds and with every object matched is DETR's."""
    import torch

    from labkit.models.detr.criterion import LossConfig, SetTargets, set_losses

    probe = next(p for p in load(NAME).assignment.probes if p.name == "losses")
    for case in probe.cases(np.random.default_rng(0)):
        case["on_crowd"] = torch.zeros_like(case["on_crowd"])
        case["gt_labels"] = torch.where(case["query_of"] >= 0, case["gt_labels"], -1)
        objects = case["gt_labels"] >= 0
        targets, matches = [], []
        for row, here in enumerate(objects):
            labels, boxes = case["gt_labels"][row, here], case["gt_boxes"][row, here]
            targets.append(SetTargets(labels, boxes, torch.zeros(len(labels), 1, 1)))
            matches.append((case["query_of"][row, here], torch.arange(len(labels))))
        config = LossConfig(eos_coef=case["eos_coef"])
        theirs = set_losses(case["pred_logits"], case["pred_boxes"], targets, matches, config)
        for name, value in probe.reference(**case).items():
            assert value == pytest.approx(float(theirs[name]), abs=1e-5), name
