"""Run lengths of masks, against pycocotools'."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as rle

from yolact.rle import encode_masks


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
