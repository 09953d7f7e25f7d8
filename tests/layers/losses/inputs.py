"""Small random inputs of the criterion, in the shapes that the model and the loader give it."""

import torch
from torch import nn

from layers.anchors import make_anchors
from layers.losses.criterion import Criterion, Shapes
from layers.targets import Targets
from yolact.outputs import Predictions

SIZE, CLASSES, PROTOTYPES = 64, 5, 4
LEVELS = [(8, 8), (4, 4), (2, 2)]
MASK_SIZES = [(16, 16), (8, 8)]
FIELDS = ("box_deltas", "class_logits", "mask_coeffs", "prototypes", "semantic_logits")


class MaskIoUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, CLASSES, 1)

    def forward(self, masks):
        return self.last(self.first(masks).relu()).amax((2, 3))


def make_predictions(batch, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    anchors = make_anchors(LEVELS, [[8], [16], [32]], [1, 0.5, 2], image_size=SIZE)
    count = len(anchors)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    return Predictions(
        draw(batch, count, 4),
        draw(batch, count, 1 + CLASSES),
        draw(batch, count, PROTOTYPES),
        draw(batch, *MASK_SIZES[0], PROTOTYPES),
        anchors,
        draw(batch, CLASSES, *MASK_SIZES[1]),
        tuple(3 * h * w for h, w in LEVELS),
    )


def make_targets(instances, *, seed=0, crowds=0):
    """Boxes filled with their mask; the first `crowds` of them are crowd regions of label -1."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(instances, 2, generator=generator) * 0.6
    boxes = torch.cat((low, low + 0.15 + 0.25 * torch.rand(instances, 2, generator=generator)), 1)
    pixel = (torch.arange(SIZE) + 0.5) / SIZE
    columns = (pixel >= boxes[:, 0, None]) & (pixel < boxes[:, 2, None])
    rows = (pixel >= boxes[:, 1, None]) & (pixel < boxes[:, 3, None])
    crowd = torch.arange(instances) < crowds
    labels = torch.randint(CLASSES, (instances,), generator=generator).masked_fill(crowd, -1)
    return Targets(boxes, labels, crowd, rows[:, :, None] & columns[:, None, :])


def make_criterion(expression="bce", *, mask_iou=True, assigner="max_iou", **options):
    torch.manual_seed(0)
    net = MaskIoUNet() if mask_iou else None
    sigmoid = "classification" in options and options["classification"].sigmoid
    shapes = Shapes(CLASSES, SIZE, MASK_SIZES, sigmoid, net)
    criterion = Criterion(shapes, expression, assigner=assigner, mask_iou_min_area=4, **options)
    return criterion, net


def select(predictions, images):
    """The predictions of some images, with the same graph."""
    fields = {name: getattr(predictions, name)[images] for name in FIELDS}
    return Predictions(anchors=predictions.anchors, level_sizes=predictions.level_sizes, **fields)


def gradients(losses, predictions, net=None):
    """d(sum of losses) for every input and every parameter of the mask-IoU network; None where
    there is no graph."""
    inputs = [getattr(predictions, name) for name in FIELDS] + (
        list(net.parameters()) if net else []
    )
    return torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True, retain_graph=True)
