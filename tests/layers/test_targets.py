"""Targets: masks at the sizes that losses read."""

import torch

from layers.targets import Targets


def test_a_pixel_that_is_half_covered_is_outside():
    """Published: bilinear and > 0.5. Twice as coarse, a pixel is the mean of four."""
    mask = torch.zeros((1, 4, 4), dtype=torch.bool)
    mask[0, :2, 1] = True  # half of the upper left pixel
    mask[0, 2:, :2] = True  # all of the lower left one
    mask[0, :2, 2:] = torch.tensor([[True, True], [True, False]])  # three quarters
    targets = Targets(torch.zeros(1, 4), torch.zeros(1).long(), torch.zeros(1).bool(), mask)
    assert targets.mask_at(2, 2)[0].tolist() == [[False, True], [True, False]]
