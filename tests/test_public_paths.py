"""Paths that notebooks and other people's scripts import: they stay, whatever moves."""

import importlib

import pytest

PATHS = {
    "data.config": ("CONFIGS", "DATASETS", "derive"),
    "data.resolve": ("load_config", "dump_yaml", "config_hash"),
    "layers.assign": ("Assignment", "build_assigner", "gma_iou"),
    "layers.boxes": ("decode", "encode", "pairwise_iou"),
    "layers.losses.expr": ("parse",),
    "layers.losses.mask": ("MaskLoss", "build_mask_loss"),
    "layers.losses.registry": ("names", "pixel_loss", "region_loss"),
    "layers.nms": ("cross_class_fast_nms", "fast_nms", "traditional_nms"),
    "yolact": ("build_model", "load_weights"),
    "yolact.build": ("build_criterion", "build_model"),
    "yolact.postprocess": ("detect",),
}


@pytest.mark.parametrize("module", PATHS)
def test_a_public_path_is_importable(module):
    found = importlib.import_module(module)
    assert [name for name in PATHS[module] if not hasattr(found, name)] == []
