"""Submissions assembled from the lessons' own functions: they must not earn the points.

A student copies what fits from the lessons, renames it and glues it together, adapts arguments and
forms of data, and writes nothing that the lessons do not teach. Where a lesson does what the
assignment asks for in a special case, the glue is right: the public checks in `passes` prove it.
"""

from dataclasses import dataclass

import pytest
from helpers.lesson_code import lesson_code
from helpers.played import NAMES, all_points, lost, play

SHARE = 0.3
"""Of the computed points."""


@dataclass(frozen=True)
class Assembled:
    """A submission from the lessons.

    Attributes:
        copied: by the number of a lesson: the functions that are copied.
        glue: by exercise: the answer's source. Exercises that are left out stay unanswered.
        passes: some public checks that this submission passes.
    """

    copied: dict[int, tuple[str, ...]]
    glue: dict[str, str]
    passes: tuple[str, ...]


ASSEMBLED = {
    "a1_roi_align": Assembled(
        copied={
            2: ("sampling_points", "my_sampling_matrix"),
        },
        glue={
            # The grid of an upright box: the angle is not in the lesson.
            "grid": """
def region(box, scale):
    x, y, width, height = (box[:4] * scale).tolist()
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return torch.tensor(corners, dtype=torch.float64)

def sampling_grid(box, output_size, spatial_scale, sampling_ratio):
    h, w = output_size
    s = sampling_ratio or math.ceil(float(box[3]) * spatial_scale / h)
    t = sampling_ratio or math.ceil(float(box[2]) * spatial_scale / w)
    x = torch.from_numpy(sampling_points(region(box, spatial_scale), w, t)[0]) - 0.5
    y = torch.from_numpy(sampling_points(region(box, spatial_scale), h, s)[1]) - 0.5
    return torch.stack([
        y.reshape(h, 1, s, 1).expand(h, w, s, t), x.reshape(1, w, 1, t).expand(h, w, s, t),
    ])
""",
            # The two matrices of section 2.5.
            "roi_align": """
def matrices(row, output_size, size, spatial_scale, sampling_ratio):
    x1, y1, x2, y2 = region(row[1:], spatial_scale).tolist()
    s = sampling_ratio or math.ceil((y2 - y1) / output_size[0])
    t = sampling_ratio or math.ceil((x2 - x1) / output_size[1])
    A_y = my_sampling_matrix(y1, y2, output_size[0], s, size[0])
    return A_y, my_sampling_matrix(x1, x2, output_size[1], t, size[1])

def roi_align_rotated(features, boxes, output_size, spatial_scale, sampling_ratio):
    out = torch.zeros(len(boxes), features.shape[1], *output_size, dtype=torch.float64)
    for k, row in enumerate(boxes.double()):
        A_y, A_x = matrices(row, output_size, features.shape[2:], spatial_scale, sampling_ratio)
        out[k] = A_y @ features[int(row[0])].double() @ A_x.T
    return out.to(features.dtype)
""",
            # Transposed, as in section 2.8.
            "map_gradient": """
def map_gradient(gradient, boxes, feature_size, spatial_scale, sampling_ratio):
    total = torch.zeros(feature_size, dtype=torch.float64)
    for G, row in zip(gradient.double(), boxes.double()):
        A_y, A_x = matrices(row, G.shape[1:], feature_size[2:], spatial_scale, sampling_ratio)
        total[int(row[0])] += A_y.T @ G @ A_x
    return total
""",
            # Finite differences of the own RoIAlign: the trick that needs no derivative.
            "box_gradient": """
def box_gradient(gradient, features, boxes, spatial_scale, sampling_ratio):
    found = torch.zeros(len(boxes), 5, dtype=torch.float64)
    features, boxes, size = features.double(), boxes.double(), tuple(gradient.shape[2:])
    for n in range(5):
        by = torch.zeros(6, dtype=torch.float64)
        by[n + 1] = 1e-5
        more, less = (
            roi_align_rotated(features, moved, size, spatial_scale, sampling_ratio)
            for moved in (boxes + by, boxes - by)
        )
        found[:, n] = ((more - less) * gradient).sum(dim=(1, 2, 3)) / 2e-5
    return found
""",
            "fit": """
def fit_box(features, target, box, step_sizes, steps, spatial_scale, sampling_ratio):
    row = torch.cat([torch.zeros(1, dtype=torch.float64), box.double()])[None]
    size = tuple(target.shape[1:])
    for _ in range(steps):
        out = roi_align_rotated(features, row, size, spatial_scale, sampling_ratio)
        g = box_gradient(out - target, features, row, spatial_scale, sampling_ratio)
        row = torch.cat([row[:, :1], row[:, 1:] - step_sizes * g], dim=1)
    return row[0, 1:]
""",
        },
        passes=(
            "upright: the same y, one to the left and one to the right of 2.5",
            "upright it is the RoIAlign of notebook 2",
            "two equal boxes send twice as much",
            "half a step on the ramp",
        ),
    ),
    "a4_panoptic_quality": Assembled(
        copied={
            1: ("near_border",),
            6: ("count_matches", "quality", "Panoptic", "Segment", "VOID"),
        },
        glue={
            # Unpacked; a map that does not fit is made smaller first.
            "overlaps": """
def unpacked(runs):
    times = max(int(runs[:, 1].sum()) // 10**5, 1)
    return np.repeat(runs[:, 0], runs[:, 1] // times)

def overlaps(prediction, truth):
    p, g = unpacked(prediction), unpacked(truth)
    both = min(len(p), len(g))
    p_ids, p = np.unique(p[:both], return_inverse=True)
    g_ids, g = np.unique(g[:both], return_inverse=True)
    pixels = np.zeros((len(p_ids), len(g_ids)), int)
    np.add.at(pixels, (p, g), 1)
    return {"prediction": p_ids.tolist(), "truth": g_ids.tolist(), "pixels": pixels}
""",
            # Pixels for the lesson's function, made of the table.
            "counting": """
import torch

def as_panoptic(ids, segments):
    listed = [Segment(s["id"], s["label"], iscrowd=s.get("iscrowd", False)) for s in segments]
    return Panoptic(torch.from_numpy(np.atleast_2d(ids).astype(np.int32)), listed)

def count(overlap, prediction_segments, truth_segments, num_classes):
    pixels = np.asarray(overlap["pixels"])
    pixels = pixels // max(int(pixels.sum()) // 10**5, 1)
    rows, columns = np.indices(pixels.shape)
    p = np.array(overlap["prediction"])[np.repeat(rows.ravel(), pixels.ravel())]
    g = np.array(overlap["truth"])[np.repeat(columns.ravel(), pixels.ravel())]
    guess, true = as_panoptic(p, prediction_segments), as_panoptic(g, truth_segments)
    return count_matches(guess, true, num_classes)
""",
            "evaluate": """
def joined(image, name):
    return np.concatenate([tile[name] for tile in image["tiles"]])

def evaluate(images, num_classes, isthing):
    counts = sum(
        count(overlaps(joined(one, "prediction"), joined(one, "truth")),
              one["prediction_segments"], one["truth_segments"], num_classes)
        for one in images
    )
    things = np.array(isthing)
    parts = {"all": counts, "things": counts[things], "stuff": counts[~things]}
    return {k: quality(part).mean(axis=1).tolist() for k, part in parts.items()}
""",
            # The IoU of the two masks of a class, as in lesson 1; void left out as in section 6.4.
            "stuff": """
def stuff_quality(images, num_classes, isthing):
    sums, numbers = np.zeros(num_classes), np.zeros(num_classes)
    for one in images:
        p, g = unpacked(joined(one, "prediction")), unpacked(joined(one, "truth"))
        p, g = p[: min(len(p), len(g))], g[: min(len(p), len(g))]
        guess = {s["label"]: s["id"] for s in one["prediction_segments"]}
        for s in one["truth_segments"]:
            in_p, in_g = (p == guess.get(s["label"], -1)) & (g != VOID), g == s["id"]
            sums[s["label"]] += (in_p & in_g).sum() / (in_p | in_g).sum()
            numbers[s["label"]] += 1
    return [sums[c] / numbers[c] if numbers[c] and not isthing[c] else None
            for c in range(num_classes)]
""",
            # Lesson 1's border of a mask; counts with the interiors taken out, so that the lesson's
            # IoU is that of the boundary regions.
            "boundary": """
def boundary_region(mask, distance):
    padded = torch.from_numpy(np.pad(mask, distance))
    inside = slice(distance, -distance)
    return near_border(padded, distance).numpy()[inside, inside] & mask

def boundary_count(prediction, truth, prediction_segments, truth_segments, num_classes, distance):
    rings = []
    for ids, listed, inner in (prediction, prediction_segments, 0), (truth, truth_segments, 2**20):
        out = ids.copy()
        for s in listed:
            mask = ids == s["id"]
            out[mask & ~boundary_region(mask, distance)] = inner
        rings.append(Panoptic(as_panoptic(out, []).ids, as_panoptic(ids, listed).segments))
    return count_matches(*rings, num_classes)
""",
            # Exercise 3 of lesson 6: it pays when a s > Q / 2.
            "draw": """
def worth_drawing(counts, objects):
    iou, tp, fp, fn = counts
    Q = iou / (tp + fp / 2 + (fn + len(objects)) / 2)
    return [a * s > Q / 2 for a, s in objects]
""",
        },
        passes=(
            "the example",
            "squares: one of two found; one half is not above one half",
            "a square on a crowd of squares is excused, one that is half on it is not",
            "the same image in two tiles has the same quality",
            "void is left out of the union",
            "two columns missing: 18/34 is smaller than 48/64",
            "0.6 of a match with IoU 0.9: 8.54 / 11 is more than 8 / 10.5",
        ),
    ),
    "a6_set_prediction": Assembled(
        copied={
            3: ("my_nms", "my_true_positives", "box_iou"),
            8: (
                "my_giou",
                "matching_cost",
                "my_hungarian",
                "my_set_losses",
                "my_panoptic_map",
                "to_xyxy",
                "linear_sum_assignment",
            ),
        },
        glue={
            # The cost of section 8.3, image by image: its probabilities come from a softmax.
            "cost": """
def cost_matrix(pred_logits, pred_boxes, gt_labels, gt_boxes):
    rows = zip(pred_logits, pred_boxes, gt_labels, gt_boxes)
    costs = [matching_cost(a, b, c.clamp(min=0), d) for a, b, c, d in rows]
    return torch.stack(costs) * (gt_labels >= 0)[:, None]
""",
            # The optimum; there are no prices.
            "auction": """
def auction(cost, epsilon):
    query_of, rounds = my_hungarian(cost)
    return {"query_of": query_of, "prices": np.zeros(len(cost)), "bids": len(rounds)}
""",
            # A number that no matching is below: the lowest cost of all.
            "bound": """
def lower_bound(cost, prices):
    return float(cost[linear_sum_assignment(cost)].sum())
""",
            # The batch as one image without the queries that have no weight, and the given pairs.
            "loss": """
def set_losses(pred_logits, pred_boxes, gt_labels, gt_boxes, query_of, on_crowd, eos_coef):
    Q, keep = pred_logits.shape[1], ~on_crowd
    for b, row in enumerate(query_of):
        keep[b, row[row >= 0]] = True
    place = (keep.flatten().cumsum(0) - 1).view(keep.shape)
    queries, objects, seen = [], [], 0
    for b, row in enumerate(query_of.tolist()):
        for n, q in enumerate(row):
            if gt_labels[b, n] >= 0:
                if q >= 0:
                    queries.append(int(place[b, q]))
                    objects.append(seen)
                seen += 1
    pairs = torch.tensor(queries, dtype=torch.int64), torch.tensor(objects, dtype=torch.int64)
    here = gt_labels >= 0
    return my_set_losses(
        pred_logits[keep], pred_boxes[keep], gt_labels[here], gt_boxes[here],
        lambda cost: pairs, eos_coef,
    )
""",
            # The true positives of 3.9, class by class; a miss near an object is a duplicate.
            "outcomes": """
def outcomes(boxes, scores, labels, gt_boxes, gt_labels, gt_crowd, threshold):
    counts = np.zeros(4, int)
    for c in labels.unique():
        order = scores.argsort(descending=True, stable=True)
        order = order[labels[order] == c]
        iou = box_iou(boxes[order], gt_boxes[(gt_labels == c) & ~gt_crowd]).numpy()
        hit = np.array(my_true_positives(iou, threshold))
        near = iou.max(axis=1, initial=0) >= threshold
        counts += [hit.sum(), (near & ~hit).sum(), (~near & ~hit).sum(), 0]
    return counts.tolist()
""",
            "nms": """
def outcomes_after_nms(
    boxes, scores, labels, gt_boxes, gt_labels, gt_crowd, threshold, nms_thresh
):
    kept = []
    for c in labels.unique():
        of_class = (labels == c).nonzero()[:, 0]
        kept += of_class[my_nms(boxes[of_class], scores[of_class], nms_thresh)[0]].tolist()
    gt = gt_boxes, gt_labels, gt_crowd
    return outcomes(boxes[kept], scores[kept], labels[kept], *gt, threshold)
""",
            # The read-out of section 8.11: every pixel has a winner, duplicates take part.
            "map": """
def panoptic_map(pred_logits, mask_logits, things, score_thresh, nms_thresh, min_area):
    score, label = pred_logits.softmax(dim=1)[:, :-1].max(dim=1)
    score = score * (pred_logits.argmax(dim=1) < pred_logits.shape[1] - 1)
    order = score.argsort(descending=True, stable=True)
    my_panoptic_map.__globals__.update(THINGS=things, SIZE=tuple(mask_logits.shape[1:]))
    found = my_panoptic_map(
        mask_logits[order], label[order], score[order], score_thresh, min_area - 1
    )
    segments = [{"id": s.id, "label": s.label} for s in found.segments]
    return {"ids": found.ids, "segments": segments}
""",
        },
        passes=(
            "a column of padding is 0",
            "A gets query 1, B query 0",
            "loss_ce: five of the six queries count",
            "loss_giou: 2 · (1 − 0.6)",
            "and a third one is a duplicate",
            "NMS removes the duplicate and, with it, the second true positive",
            "two things of one class, side by side, are two segments",
        ),
    ),
    "w1_semantic": Assembled(
        copied={1: ("iou", "receptive_field", "dilated_conv1d", "IGNORE")},
        glue={
            # What the lesson has of the metrics: the IoU of a class.
            "confusion": """
import torch

def confusion(prediction, gt, num_classes):
    matrix = np.zeros((num_classes, num_classes + 1), int)
    for c in range(num_classes):
        p, g = torch.from_numpy(prediction), torch.from_numpy(gt)
        both = int(((p == c) & (g == c)).sum())
        matrix[c, c] = both
        matrix[c, -1] = round(both / iou(p, g, c)) - both if both else 0
    return matrix
""",
            "metrics": """
def metrics(matrix):
    maps = [(r, c) for r, row in enumerate(matrix) for c, n in enumerate(row) for _ in range(n)]
    gt, prediction = torch.tensor(maps).T
    values = [iou(prediction, gt, c) for c in range(len(matrix))]
    accuracy = float((gt == prediction).float().mean())
    return {"iou": values, "miou": sum(values) / len(values), "pixel_accuracy": accuracy,
            "mean_accuracy": accuracy, "fw_iou": sum(values) / len(values)}
""",
            # The receptive field around the middle of the cell.
            "seen": """
def seen_pixels(layers, cell, size):
    middle = cell * int(np.prod([s for _, s, _, _ in layers]))
    reach = (receptive_field([layer[:3] for layer in layers]) - 1) // 2
    return [max(middle - reach, 0), min(middle + reach, size - 1)]
""",
            # "Change a stride of 2 to 1 and double the dilation of every convolution behind it."
            "dilate": """
def dilate(layers, output_stride):
    out = [list(one) for one in layers]
    while np.prod([s for _, s, _ in out]) > output_stride:
        last = max(n for n, (_, s, _) in enumerate(out) if s == 2)
        out[last][1] = 1
        for one in out[last + 1 :]:
            one[2] *= 2
    return out
""",
            # Zeros between the values, then the lesson's convolution.
            "transposed": """
def transposed_conv1d(x, w, stride, padding):
    spread = np.zeros((len(x) - 1) * stride + 1)
    spread[::stride] = x
    return dilated_conv1d(spread, w, 1)[padding : len(spread) - padding]
""",
        },
        passes=(
            "one row for each class, one column more: (2, 3)",
            "cell 3 sees the pixels 8 to 16",
            "output stride 2: two strides are taken, and the last layer has dilation 4",
        ),
    ),
    "w2_nms_fpn": Assembled(
        copied={3: ("my_nms", "my_level", "my_fpn", "box_iou")},
        glue={
            "nms": """
def nms_by_class(boxes, scores, labels, threshold, limit):
    kept = []
    for c in labels.unique():
        of_class = (labels == c).nonzero()[:, 0]
        kept += of_class[my_nms(boxes[of_class], scores[of_class], threshold)[0]].tolist()
    return sorted(kept, key=lambda k: -float(scores[k]))[:limit]
""",
            # The boxes that NMS removes have the score 0.
            "soft": """
def soft_nms(boxes, scores, sigma, min_score):
    kept = my_nms(boxes, scores, sigma)[0]
    new = torch.zeros_like(scores)
    new[kept] = scores[kept]
    return new
""",
            "levels": """
def levels_of(boxes, s0, k0, finest, coarsest):
    levels = []
    for box in boxes.tolist():
        empty = box[0] == box[2] or box[1] == box[3]
        levels.append(finest if empty else my_level(box, s0, k0, finest, coarsest))
    return torch.tensor(levels, dtype=torch.int64)
""",
            # Four levels or fewer, coarser maps half as large.
            "fpn": """
from types import SimpleNamespace

def fpn(stages, laterals, outputs):
    convolutions, first = {}, 6 - len(stages)
    for n, (lateral, output) in enumerate(zip(laterals, outputs), first):
        convolutions[f"lateral{n}"] = lambda x, c=lateral: F.conv2d(x, *c)
        convolutions[f"output{n}"] = lambda x, c=output: F.conv2d(x, *c, padding=1)
    for n in range(2, first):
        convolutions[f"lateral{n}"] = lambda x: 0
        convolutions[f"output{n}"] = lambda x: x
    maps = {f"res{n}": stages[max(n - first, 0)] for n in range(2, 6)}
    pyramid = my_fpn(maps, SimpleNamespace(**convolutions))
    return [pyramid[f"p{n}"] for n in range(first, 6)]
""",
        },
        passes=(
            "the second is removed by the first; then nothing removes the third",
            "the best one keeps its score",
            "the paper's numbers: sides 224, 223, 112 and 448",
        ),
    ),
    "a2_instance": Assembled(
        copied={},
        glue={
            # Lesson 3's training loop on the model of the set-up; here labkit's own detector stands
            # for what it reaches at best. Labels and masks as in section 3.12.
            "training": """
from labkit.engine.predictor import Predictor

mask_rcnn_tiny = Predictor("mask_rcnn_tiny")

def detector(images):
    found = mask_rcnn_tiny((255 * images[0]).round().to(torch.uint8)).detections
    masks = found.masks[:, None].float()
    labels = found.labels + 1
    return [{"boxes": found.boxes, "scores": found.scores, "labels": labels, "masks": masks}]
""",
            "predict": """
def predict(image):
    found = detector([image / 255])[0]
    masks = found["masks"][:, 0] > 0.5
    return {**found, "labels": found["labels"] - 1, "masks": masks}
""",
            # The flip of every lesson's training images.
            "mirror": """
from torchvision.transforms import v2
from labkit.datasets.transforms import JointTransform

def mirrored(target):
    flip = JointTransform(v2.RandomHorizontalFlip(1.0))
    image = torch.zeros(3, *target["masks"].shape[1:], dtype=torch.uint8)
    found = flip(image, {**target, "masks": target["masks"].bool(), "image_id": 0})[1]
    return {name: found[name] for name in target}
""",
        },
        passes=("labels are 0, 1, 2",),
    ),
    "a3_backbones": Assembled(
        copied={},
        glue={
            # Weights of one network for another, as in lessons 5 and 9.
            "swap": """
from labkit.checkpoints.run_folder import start_from
from labkit.models import build

def swap_trunk(model, trunk):
    swapped = build("panoptic_fpn_tiny", categories)
    swapped.backbone = FPN(trunk, model.backbone.channels["p2"], group_norm=True)
    start_from(swapped, model)
    return swapped
""",
            # The bootstrap of section 4.9: how often does the difference have the other sign?
            "test": """
def sign_flip(a, b):
    d, random = np.asarray(a, float) - np.asarray(b, float), np.random.default_rng(0)
    draws = random.multinomial(len(d), [1 / len(d)] * len(d), size=1000)
    means = draws @ d / len(d)
    return float(2 * min((means <= 0).mean(), (means >= 0).mean()))
""",
            # As lessons 4 and 5 conclude: seed by seed; if the differences change sign, no result.
            "verdict": """
def verdict(runs, alpha):
    of = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        of.setdefault(run["backbone"], []).append(run["score"])
    (first, a), (second, b) = sorted(of.items())
    d = np.asarray(a) - np.asarray(b)
    return first if (d > 0).all() else second if (d < 0).all() else "not shown"
""",
        },
        passes=("six seeds that all agree: B", "six seeds that do not: not shown"),
    ),
    "a5_upsnet": Assembled(
        copied={
            5: ("my_panoptic_logits", "sample_boxes", "targets_of_pixels", "covered_share"),
            6: ("encode", "quality"),
        },
        glue={
            # Lesson 3's pasting without its threshold.
            "place": """
def place(masks, boxes, size):
    maps = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        x = 2 * (torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) - 1
        y = 2 * (torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        maps.append(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0])
    return torch.stack(maps) if maps else torch.zeros(0, *size)
""",
            # The head of section 5.3, image by image, with masks resized to whole pixels.
            "logits": """
def head(X, num_things, labels, boxes, masks):
    limits = torch.tensor([X.shape[2], X.shape[1]] * 2)
    boxes = boxes.floor().clamp(min=0).minimum(limits)
    sizes = [(int(y2 - y1), int(x2 - x1)) for x1, y1, x2, y2 in boxes]
    Y = [F.interpolate(m[None, None], size, mode="bilinear")[0, 0] if min(size) > 0 else 0.0
         for m, size in zip(masks, sizes)]
    if not len(labels):
        return torch.cat([X[num_things:], X[:num_things].amax(dim=0, keepdim=True)])
    terms = my_panoptic_logits(X, num_things, labels, boxes, Y)
    return torch.cat([terms["X_stuff"], terms["Z"], terms["unknown"][None]])

def panoptic_logits(semantic, num_things, labels, boxes, masks):
    images = []
    for X, of_image, at, Y in zip(semantic, labels, boxes, masks):
        real = of_image >= 0
        logits = head(X, num_things, of_image[real], at[real], Y[real])
        stuff = semantic.shape[1] - num_things
        padded = logits.new_full((stuff + len(real) + 1, *X.shape[1:]), -torch.inf)
        padded[:stuff], padded[-1] = logits[:stuff], logits[-1]
        padded[stuff:-1][real] = logits[stuff:-1]
        images.append(padded)
    return torch.stack(images)
""",
            # The pruning of section 5.7, for all classes together.
            "pruning": """
def prune(logits, num_stuff, masks, least):
    kept = []
    for i, mask in enumerate(masks):
        if mask.any() and covered_share(mask, [masks[k] for k in kept]) <= 1 - least:
            kept.append(i)
    return kept
""",
            "targets": """
def panoptic_targets(semantic, num_things, num_classes, masks, crowd, draws, ratio):
    sizes = {"THINGS": num_things, "STUFF": num_classes - num_things, "IGNORE": 255}
    targets_of_pixels.__globals__.update(sizes)
    known = sample_boxes(len(masks), ratio)
    return {"known": known.tolist(), "target": targets_of_pixels(semantic, masks, known)}
""",
            # Step 5 and 6 of section 5.4, small stuff is void.
            "map": """
def panoptic_map(logits, num_things, labels, stuff_area):
    winners, stuff = logits.argmax(dim=0), len(logits) - len(labels) - 1
    ids, segments = torch.zeros_like(winners), []
    channels = [*range(stuff, stuff + len(labels)), *range(stuff)]
    for channel in channels:
        won = winners == channel
        if int(won.sum()) >= (1 if channel >= stuff else stuff_area):
            label = int(labels[channel - stuff]) if channel >= stuff else num_things + channel
            segments.append({"id": len(segments) + 1, "label": label})
            ids[won] = len(segments)
    return {"ids": ids, "segments": segments}
""",
            "fuse": """
def fuse(semantic, num_things, labels, boxes, masks, least, stuff_area):
    kept, placed = [], place(masks, boxes, semantic.shape[1:]) > 0
    for i, mask in enumerate(placed):
        before = [placed[k] for k in kept if labels[k] == labels[i]]
        if mask.any() and covered_share(mask, before) <= 0.3:
            kept.append(i)
    logits = head(semantic, num_things, labels[kept], boxes[kept], masks[kept])
    return panoptic_map(logits, num_things, labels[kept], stuff_area)
""",
            # The colours of section 6.2; ids as they are.
            "file": """
def results_entry(panoptic, category_ids, num_things, image_id):
    ids = np.asarray(panoptic["ids"])
    listed = [
        {"id": s["id"], "category_id": category_ids[s["label"]]} for s in panoptic["segments"]
    ]
    return {"rgb": encode(ids), "annotation": {
        "image_id": image_id, "file_name": f"{image_id:012d}.png", "segments_info": listed}}
""",
            # PQ, SQ and RQ of section 6.3, and the formula of the statement.
            "parts": """
def sq_rq_parts(counts_a, counts_b):
    (_, sq_a, rq_a), (_, sq_b, rq_b) = (each(c) for c in (counts_a, counts_b))
    return np.stack([(sq_b - sq_a) * (rq_a + rq_b) / 2, (rq_b - rq_a) * (sq_a + sq_b) / 2], axis=1)

def each(counts):
    return np.nan_to_num(quality(np.asarray(counts, float)))
""",
        },
        passes=(
            "2 stuff, 2 objects, unknown: (B, 5, H, W)",
            "stuff comes first, unchanged",
            "unknown is void",
            "objects are numbered first, then stuff",
            "one square on grass: 16 pixels, numbered 1",
        ),
    ),
}


def assemble(name, checks=None):
    """The names that an assembled submission defines."""
    assembled = ASSEMBLED[name]
    copied = {}
    for number, names in assembled.copied.items():
        copied |= lesson_code(number, *names)

    def answer(exercise):
        def cell(namespace):
            for key, value in copied.items():
                namespace.setdefault(key, value)
            exec(compile(assembled.glue[exercise], f"{name}, {exercise}", "exec"), namespace)

        return cell

    instead = {exercise: answer(exercise) for exercise in assembled.glue}
    return play(name, stubs=True, instead=instead, checks=checks)


def test_no_assignment_is_forgotten():
    assert set(ASSEMBLED) == set(NAMES)


@pytest.mark.parametrize("name", ASSEMBLED)
def test_the_lessons_own_code_earns_little(name, tmp_path):
    points = all_points(name)
    losses = lost(name, assemble(name), tmp_path)
    earned = {probe: points[probe] - losses.get(probe, 0) for probe in points}
    assert sum(earned.values()) <= SHARE * sum(points.values()), earned


@pytest.mark.parametrize("name", ASSEMBLED)
def test_the_glue_works_where_the_lesson_does(name):
    checks = []
    assemble(name, checks)
    passed = {one.name for check in checks for one in check.results if not one.problem}
    assert set(ASSEMBLED[name].passes) <= passed
