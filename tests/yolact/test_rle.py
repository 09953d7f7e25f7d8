"""Run lengths of masks, against pycocotools'."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as rle

from yolact.rle import MaskRuns, encode_masks


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9))))
def test_masks_are_encoded_as_pycocotools_does(masks):
    expected = [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    assert encode_masks(torch.from_numpy(masks)) == [
        {"size": e["size"], "counts": e["counts"].decode()} for e in expected
    ]


def test_masks_are_encoded_in_bounded_blocks(monkeypatch):
    masks = torch.rand(7, 50, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    whole = encode_masks(masks)
    monkeypatch.setattr("yolact.rle._PIXELS_AT_ONCE", 3 * 50 * 40)
    assert encode_masks(masks) == whole and len(whole) == 7


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(bool, st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 6))),
    *[st.integers(0, 3)] * 4,
)
def test_windows_are_encoded_as_whole_masks(pixels, above, below, left, right):
    """Masks at any place of an image, also at its edges, and back."""
    whole = np.pad(pixels, ((0, 0), (above, below + 1), (left, right + 1)))
    size = whole.shape[1:]
    runs = MaskRuns.collect([(above, left, torch.from_numpy(pixels))], size)
    assert runs.to_coco() == encode_masks(torch.from_numpy(whole))
    assert (runs.stack().numpy() == whole).all() and len(runs) == len(whole)
    assert runs.areas() == whole.sum((1, 2)).tolist()
    for i, mask in enumerate(whole):
        top, start, part = runs.window(i)
        rows, columns = mask.nonzero()
        if len(rows):
            assert (top, start) == (rows.min(), columns.min())
            assert part.shape == (np.ptp(rows) + 1, np.ptp(columns) + 1)
