"""What the losses of a batch are divided by: its positives, and 1 where it has none."""

import pytest
import torch

from layers.assign import Assignment
from layers.losses.sampling import Positives
from tests.layers.losses.inputs import make_criterion


@pytest.mark.parametrize("positives, divisor", [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_the_divisor_is_the_number_of_positives_and_at_least_one(positives, divisor):
    index = torch.full((2, 6), -1)
    index[0, :positives] = 0
    index[1, 0] = -2  # ignored, so no positive
    criterion, _ = make_criterion()
    found = criterion.normalizers([Assignment(index, torch.zeros(2, 6))])
    assert found.positives.item() == divisor
    assert found.images == 2


def test_micro_batches_are_counted_together():
    index = torch.tensor([[0, -1, -1]])
    one = Assignment(index, torch.zeros(1, 3))
    criterion, _ = make_criterion()
    found = criterion.normalizers([one, one, one])
    assert (found.positives.item(), found.images) == (3, 3)


def test_positives_are_split_image_by_image():
    positives = Positives(torch.arange(10, 17), [3, 0, 4])
    parts = list(positives.split(2))
    assert [part.rows.tolist() for part in parts] == [[10, 11], [12, 13], [14, 15], [16]]
    assert [part.counts for part in parts] == [[2, 0, 0], [1, 0, 1], [0, 0, 2], [0, 0, 1]]
    assert [part.counts for part in Positives(positives.rows[:0], [0, 0]).split(2)] == [[0, 0]]
