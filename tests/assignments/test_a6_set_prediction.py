"""Set prediction: what a mistake in a cost, a loss, a mask or a rule costs."""

import numpy as np
import pytest
from helpers.played import failed, load, lost, play, scored
from scipy.optimize import linear_sum_assignment

NAME = "a6_set_prediction"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),  # the probes that lose points, and how their hints begin
    [
        # GIoU of centres and sides.
        ({"giou(corners(a), corners(b))\n    return torch": "giou(a, b)\n    return torch"}, {"cost": "Which corners", "cost-padding": ""}),  # noqa: E501
        # The focal loss of the target 1 alone.
        ({"2 * (positive - negative)": "2 * positive"}, {"cost": "Is the cost low", "cost-padding": ""}),  # noqa: E501
        # A softmax over the classes.
        ({"z = pred_logits.gather(2, at)  # (B, Q, N)": "z = torch.logit(pred_logits.softmax(-1).gather(2, at))"}, {"cost": "Does the probability", "cost-padding": ""}),  # noqa: E501
        # The logarithm of a rounded probability.
        ({"-F.logsigmoid(-z)": "-torch.log(1 - torch.sigmoid(z))"}, {"cost-padding": "What is the logarithm"}),  # noqa: E501
        # Padding costs what an object of class 0 at the corner costs.
        ({"return torch.where(valid[:, None], cost, 0.0)": "return cost"}, {"cost-padding": "What do objects cost"}),  # noqa: E501
        # The price rises by epsilon alone.
        ({"np.delete(expense, q).min() - expense[q] + epsilon": "epsilon"}, {"auction": "By how much"}),  # noqa: E501
        # The loser bids again at once.
        ({"waiting.append(object_of[q])": "waiting.insert(0, object_of[q])"}, {"auction": "Who bids next"}),  # noqa: E501
        # The queries in the order in which they were taken.
        ({"sorted(object_of, key=object_of.get)": "list(object_of)"}, {"auction": "Is query_of"}),
        # The prices are not subtracted.
        ({".sum() - prices.sum()": ".sum()"}, {"bound": "What is subtracted"}),
        # The prices are not added.
        ({"(cost + prices[:, None])": "cost"}, {"bound": "Which sum"}),
        # The cheapest object of each query.
        ({".min(axis=0)": ".min(axis=1)"}, {"bound": "What is the minimum taken over"}),
        # A crowd silences matched queries, too.
        ({"weight[image, query] = 1.0": "weight[image, query] = (~on_crowd[image, query]).float()"}, {"losses": "Which weight has a query with an", "gradients": "Which weight has a query with an"}),  # noqa: E501
        # No crowds.
        ({"torch.where(on_crowd, 0.0, float(eos_coef))": "torch.full(on_crowd.shape, float(eos_coef))"}, {"losses": "Which weight has a query without", "gradients": "Which weight has a query without"}),  # noqa: E501
        # Rows of padding count.
        ({"int((gt_labels >= 0).sum())": "gt_labels.numel()"}, {"losses": "What counts in n: do rows", "gradients": "What counts in n: do rows"}),  # noqa: E501
        # An object without a query does not count.
        ({"int((gt_labels >= 0).sum())": "len(query)"}, {"losses": "What counts in n: does an object", "gradients": "What counts in n: does an object"}),  # noqa: E501
        # The mean over the queries.
        ({"weight.sum().clamp(min=1e-12)": "weight.numel()"}, {"losses": "By what is the sum", "gradients": "By what is the sum"}),  # noqa: E501
        # No gradient for the boxes.
        ({'"loss_bbox": 5 * (a - b)': '"loss_bbox": 5 * (a - b).detach()'}, {"gradients": ""}),
        # Half a side for the sides as well.
        ({"reach = torch.cat([w_h / 2, w_h], dim=1)": "reach = torch.cat([w_h, w_h], dim=1) / 2"}, {"denoising": "By how much can a side"}),  # noqa: E501
        # A whole side for the centre.
        ({"reach = torch.cat([w_h / 2, w_h], dim=1)": "reach = torch.cat([w_h, w_h], dim=1)"}, {"denoising": "By how much can the centre"}),  # noqa: E501
        # Not clamped.
        ({"* reach).clamp(0, 1)": "* reach)"}, {"denoising": "May a box be outside"}),
        # Rows and columns exchanged.
        ({"return ~ordinary & (group[:, None] != group)": "return (~ordinary & (group[:, None] != group)).T"}, {"attention": "Which index"}),  # noqa: E501
        # True for what is allowed.
        ({"return ~ordinary & (group[:, None] != group)": "return ordinary | (group[:, None] == group)"}, {"attention": "Does True"}),  # noqa: E501
        # Groups see one another.
        ({"return ~ordinary & (group[:, None] != group)": "return ~ordinary & ordinary[:, None]"}, {"attention": "What may a denoising"}),  # noqa: E501
        # The nearest object, taken or not.
        ({"free = [g for g in near if g not in taken]": "free = [g for g in sorted(near, key=lambda g: -float(iou[p, g]))[:1] if g not in taken]"}, {"outcomes": "The nearest object", "nms": ""}),  # noqa: E501
        # Above the threshold.
        ({"and iou[p, g] >= threshold": "and iou[p, g] > threshold"}, {"outcomes": "Is an IoU", "nms": ""}),  # noqa: E501
        # IoU with crowds.
        ({"covered(boxes[p], gt_boxes[g]) >= threshold": "iou[p, g] >= threshold"}, {"outcomes": "What is the part", "nms": ""}),  # noqa: E501
        # In the order of the list.
        ({"for p in scores.argsort(descending=True, stable=True).tolist():": "for p in range(len(scores)):"}, {"outcomes": "In which order"}),  # noqa: E501
        # The first free object of the list.
        ({"max(free, key=lambda g: (float(iou[p, g]), -g))": "free[0]"}, {"outcomes": "There may be several", "nms": ""}),  # noqa: E501
        # A taken object before a crowd.
        ({"elif any(": "elif not near and any("}, {"outcomes": "Its objects are taken"}),
        # Crowds together.
        ({"any(gt_crowd[g] and covered(boxes[p], gt_boxes[g]) >= threshold for g in of_class)": "sum(covered(boxes[p], gt_boxes[g]) for g in of_class if gt_crowd[g]) >= threshold"}, {"outcomes": "May two crowds", "nms": ""}),  # noqa: E501
        # NMS across classes.
        ({"batched_nms(boxes, scores, labels, nms_thresh)": "batched_nms(boxes, scores, labels * 0, nms_thresh)"}, {"nms": "Which boxes may"}),  # noqa: E501
        # The thresholds exchanged.
        ({"batched_nms(boxes, scores, labels, nms_thresh)": "batched_nms(boxes, scores, labels, threshold)\n    threshold = nms_thresh"}, {"nms": "There are two"}),  # noqa: E501
        # Every better box of the class removes, whether it was kept or not.
        ({"    from torchvision.ops import batched_nms\n\n    kept = batched_nms(boxes, scores, labels, nms_thresh)": "    from torchvision.ops import box_iou\n\n    better = (scores[None] > scores[:, None]) & (labels[None] == labels[:, None])\n    kept = ~(better & (box_iou(boxes, boxes) > nms_thresh)).any(dim=1)"}, {"nms": "May a removed"}),  # noqa: E501
        # NMS in the order of the list.
        ({"batched_nms(boxes, scores, labels, nms_thresh)": "batched_nms(boxes, -torch.arange(float(len(boxes))), labels, nms_thresh)"}, {"nms": "In which order"}),  # noqa: E501
        # Every query has the weight 1.
        ({"objects + eos_coef * (copies": "objects + (copies"}, {"copies": "Where does"}),
        # The weight at the objects.
        ({"return objects / (objects + eos_coef * (copies - objects))": "return eos_coef * objects / (eos_coef * objects + copies - objects)"}, {"copies": "Which queries"}),  # noqa: E501
        # The probability of no object.
        ({"return objects / (objects + eos_coef * (copies - objects))": "return 1 - objects / (objects + eos_coef * (copies - objects))"}, {"copies": "Whose probability"}),  # noqa: E501
        # No-object queries take part.
        ({"selected = (label < pred_logits.shape[1] - 1) & ": "selected = "}, {"map": "", "map-duplicates": ""}),  # noqa: E501
        # Every pixel has a winner.
        ({"winner[largest <= 0] = -1": "pass"}, {"map": "Which pixels are void", "map-duplicates": "Which pixels are void"}),  # noqa: E501
        # Suppression across classes.
        ({"label[k] == label[q] and mask_iou": "mask_iou"}, {"map": "", "map-duplicates": "May a query"}),  # noqa: E501
        # No suppression.
        ({"label[q] >= things or not any(": "True or not any("}, {"map-duplicates": "Are all queries"}),  # noqa: E501
        # Each query of stuff a segment of its own.
        ({'if c < things else ("stuff", c)': 'if c < things else ("stuff", q)'}, {"map": "How many segments", "map-duplicates": ""}),  # noqa: E501
        # Queries below min_area are dropped before they are joined.
        ({"pixels = torch.isin(": "places = [p for p in places if int((winner == p).sum()) >= min_area]\n        pixels = torch.isin("}, {"map": "Is min_area for", "map-duplicates": ""}),  # noqa: E501
        # The place of the last query of a stuff class.
        ({"in members.values():": "in sorted(members.values(), key=lambda m: m[1][-1]):"}, {"map": "Which of its queries", "map-duplicates": ""}),  # noqa: E501
        # A probability of exactly the threshold.
        ({"(score > score_thresh)": "(score >= score_thresh)"}, {"map": "Is a probability of exactly"}),  # noqa: E501
        # An IoU of exactly the threshold.
        ({"mask_iou(mask_logits[k], mask_logits[q]) > nms_thresh": "mask_iou(mask_logits[k], mask_logits[q]) >= nms_thresh"}, {"map-duplicates": "Is an IoU of exactly"}),  # noqa: E501
        # Stuff is suppressed, too.
        ({"label[q] >= things or not any(": "not any("}, {"map-duplicates": "May a query of stuff"}),  # noqa: E501
        # Dropped queries suppress.
        ({"for k in kept\n": "for k in order[selected[order]].tolist()[: order[selected[order]].tolist().index(q)]\n"}, {"map-duplicates": "May a dropped query"}),  # noqa: E501
        # Of equal scores the last one first.
        ({"score.argsort(descending=True, stable=True)": "score.argsort(stable=True).flip(0)"}, {"map-duplicates": "Which of two equal"}),  # noqa: E501
        # Equal to min_area is too small.
        ({">= max(min_area, 1)": "> max(min_area, 1)"}, {"map": "What becomes", "map-duplicates": ""}),  # noqa: E501
    ],
)  # fmt: skip
def test_mistakes_and_their_hints(edits, expected, tmp_path):
    result = scored(NAME, play(NAME, edits), tmp_path, only=tuple(expected))
    lost_in = {p.name: p.hint for p in result.probes if p.name in expected and p.points < p.out_of}
    assert set(lost_in) == set(expected)
    for name, beginning in expected.items():
        assert lost_in[name].startswith(beginning) if beginning else not lost_in[name], lost_in


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
