"""data/schema.py: what a config may hold, and what it says about what it may not."""

import pytest
from pydantic import ValidationError

from data.schema import Config, DataConfig, LossConfig, ModelConfig, TrainConfig, prototype_size
from layers.anchors import level_shapes


@pytest.mark.parametrize(
    "size, expected",
    [(550, 138), (400, 100), (700, 176), (256, 64), (262, 66), (230, 58), (249, 64), (248, 62)],
)
def test_prototype_size(size, expected):
    assert prototype_size(size) == expected  # 550 -> 138 is the published model's
    assert prototype_size(size) == 2 * level_shapes(size)[0][0]


def test_mask_iou_net_needs_prototypes_of_63_pixels():
    assert ModelConfig(max_size=249, mask_iou_net=True).prototype_size >= 63
    with pytest.raises(ValidationError, match="max_size >= 249"):
        ModelConfig(max_size=248, mask_iou_net=True)


def test_class_names_as_one_string_is_refused_with_the_reason():
    with pytest.raises(ValidationError, match=r"8 one-letter classes: write a list, \[cig_butt\]"):
        DataConfig(class_names="cig_butt")


@pytest.mark.parametrize(
    "section, values, reason",
    [
        (DataConfig, {"class_names": []}, "at least one name"),
        (DataConfig, {"class_names": ["a", " "]}, "none of them empty"),
        (DataConfig, {"class_names": ["a", "b", "a"]}, "lists a more than once"),
        (DataConfig, {"class_names": ["a"], "label_map": {1: 1}}, "labels are 0-based"),
        (ModelConfig, {"anchor_scales": ((1,), (2,), (3,))}, "5 levels"),
        (ModelConfig, {"anchor_scales": ((1,), (2,), (3,), (4,), (5, 6))}, "same number of scales"),
        (ModelConfig, {"backbone": "darknet53", "dcn_layers": (0, 4, 6, 3)}, "belong to ResNets"),
        (ModelConfig, {"pixel_std": (1, 0, 1)}, "greater than or equal to 0.000001"),
        (TrainConfig, {"lr": -1}, "greater than 0"),
        (TrainConfig, {"lr": float("nan")}, "finite|greater than 0"),
        (TrainConfig, {"lr_steps": (10, 5)}, "ascend"),
        (TrainConfig, {"batch_size": 8, "accumulate": 3}, "not a multiple"),
        (TrainConfig, {"iteratons": 5}, "Extra inputs"),
        (Config, {"name": "../up"}, "folder name"),
        (Config, {"name": ""}, "folder name"),
    ],
)
def test_refused_with_the_reason(section, values, reason):
    with pytest.raises(ValidationError, match=reason):
        section(**values)


def test_frozen():
    with pytest.raises(ValidationError):
        TrainConfig().lr = 1.0


def test_lone_values_become_tuples_where_that_is_unambiguous():
    assert TrainConfig(lr_steps=5).lr_steps == (5,)
    assert LossConfig(plugins="mine.py").plugins == ("mine.py",)


def test_hard_negatives_of_empty_images_follow_keep_empty():
    kept = DataConfig(keep_empty=True)
    assert Config(name="a").ohem_min_negatives == 0
    assert Config(name="a", data=kept).ohem_min_negatives == 16
    assert (
        Config(name="a", data=kept, loss=LossConfig(ohem_min_negatives=3)).ohem_min_negatives == 3
    )


def test_every_field_says_what_it_is():
    for section in Config.model_fields.values():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, name
