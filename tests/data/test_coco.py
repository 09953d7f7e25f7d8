import json
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as PycocotoolsCOCO

from data.annotations import read_coco
from data.coco import CocoDataset
from data.draws import Viewport
from data.images import read_image
from data.segmentation import rle_length
from data.transforms import eval_transform
from tests.data.sets import (
    COCO,
    NUCLEI,
    SQUARE,
    annotation,
    config,
    image_entry,
    real_data,
    write_set,
)


def dataset(root, class_names=("thing",), *, label_map=None, keep_empty=False, **content):
    images, annotations = write_set(root, **content)
    return CocoDataset(images, annotations, class_names, label_map=label_map, keep_empty=keep_empty)


# ------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("folder, split", [(COCO, "train"), (COCO, "val"), (NUCLEI, "train")])
def test_masks_boxes_and_labels_of_real_sets_are_those_of_pycocotools(folder, split, capsys):
    cfg = real_data(folder)
    path = folder / f"annotations/instances_{split}.json"
    ours = CocoDataset(folder / "images", path, cfg.class_names, keep_empty=True)
    assert capsys.readouterr().out == ""
    theirs = PycocotoolsCOCO(str(path))
    assert sorted(ours.image_ids) == sorted(theirs.getImgIds())
    compared = 0
    for index, image_id in enumerate(ours.image_ids):
        sample = ours[index]
        expected = sorted(
            theirs.loadAnns(theirs.getAnnIds(imgIds=[image_id])), key=lambda a: a["iscrowd"]
        )
        assert len(sample.targets) == len(expected)
        height, width = sample.original_size
        for row, item in enumerate(expected):
            assert np.array_equal(
                sample.targets.masks[row].numpy(), theirs.annToMask(item).astype(bool)
            )
            x, y, w, h = item["bbox"]
            np.testing.assert_allclose(
                sample.targets.boxes[row] * torch.tensor([width, height] * 2),
                [x, y, x + w, y + h],
                atol=1e-3,
            )
            assert ours.category_of_label[int(sample.targets.labels[row])] == item["category_id"]
            assert bool(sample.targets.crowd[row]) == bool(item["iscrowd"])
            compared += 1
    assert compared == len(theirs.anns)


def test_polygon_compressed_and_uncompressed_rle_of_one_shape_give_one_mask(tmp_path):
    rle = coco_mask.merge(coco_mask.frPyObjects([SQUARE], 48, 64))
    flat = coco_mask.decode(rle).flatten(order="F")
    edges = np.flatnonzero(np.diff(np.r_[0, flat]))
    runs = np.diff(np.r_[0, edges, flat.size]).tolist()
    as_text = {"size": [48, 64], "counts": rle["counts"].decode()}
    data = dataset(
        tmp_path,
        annotations=[
            annotation(1),
            annotation(2, segmentation=as_text),
            annotation(3, segmentation={"size": [48, 64], "counts": runs}, iscrowd=1),
        ],
    )
    masks = data[0].targets.masks
    assert masks.shape == (3, 48, 64) and masks[0].sum() == flat.sum() > 300
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_rle_length_counts_what_pycocotools_encodes():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = np.asfortranarray(rng.random((83, 207)) < density, np.uint8)
        mask[20:60, 30:90] |= np.uint8(density > 0)
        assert rle_length(coco_mask.encode(mask)["counts"]) == 83 * 207
    assert rle_length("") == rle_length(b"P") == -1  # nothing; a run that says that more follows


@pytest.mark.parametrize("keys", [(0, 1), (7, 100), ("a", "img/b"), ("0", "1")])
def test_ids_may_start_at_zero_have_gaps_or_be_text(tmp_path, keys):
    images = [image_entry(keys[0], "a.png"), image_entry(keys[1], "b.png")]
    annotations = [
        annotation(keys[1], keys[0], "cat" if isinstance(keys[0], str) else 0),
        annotation(keys[0], keys[1], "cat" if isinstance(keys[0], str) else 0),
    ]
    category = annotations[0]["category_id"]
    data = dataset(
        tmp_path,
        images=images,
        annotations=annotations,
        categories=[{"id": category, "name": "thing"}],
    )
    assert [data[i].image_id for i in range(2)] == list(keys)
    assert data.category_of_label == {0: category} and all(
        len(data[i].targets) == 1 for i in range(2)
    )


def test_labels_come_from_names_or_from_the_map(tmp_path):
    content = dict(
        annotations=[annotation(1, category=9), annotation(2, category=4)],
        categories=[{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}],
    )
    assert dataset(tmp_path, ("dog", "cat"), **content)[0].targets.labels.tolist() == [0, 1]
    merged = dataset(tmp_path, ("animal",), label_map={4: 0, 9: 0}, **content)
    assert merged[0].targets.labels.tolist() == [0, 0] and merged.category_of_label == {0: 4}


def test_crowds_come_last_and_empty_images_are_kept_by_choice(tmp_path):
    content = dict(
        images=[image_entry(1, "a.png"), image_entry(2, "b.png")],
        annotations=[annotation(1, iscrowd=1), annotation(2), annotation(3)],
    )
    data = dataset(tmp_path, **content)
    assert len(data) == 1 and data[0].targets.crowd.tolist() == [False, False, True]
    kept = dataset(tmp_path, keep_empty=True, **content)
    assert (
        len(kept) == 2
        and kept[1].targets.boxes.shape == (0, 4)
        and kept[1].targets.masks.shape == (0, 48, 64)
    )


def test_boxes_without_area_are_left_out_and_said_so(tmp_path):
    with pytest.warns(UserWarning, match=r"left out 1 annotations .*ids 5"):
        data = dataset(tmp_path, annotations=[annotation(5, bbox=[10, 10, 20, 0]), annotation(6)])
    assert len(data[0].targets) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # thin, as some in COCO are
        assert (
            len(dataset(tmp_path, annotations=[annotation(6, bbox=[10, 10, 0.4, 0.5])])[0].targets)
            == 1
        )


def test_masks_are_reduced_as_asked(tmp_path):
    images, path = write_set(tmp_path)
    cfg = config(real_data(COCO))
    reduced = CocoDataset(
        images,
        path,
        ("thing",),
        transform=eval_transform(cfg),
        mask_sizes=[(32, 32)],
        needs_full_masks=False,
    )[0].targets
    assert (
        reduced.masks is None
        and list(reduced.reduced) == [(32, 32)]
        and reduced.mask_at(32, 32).dtype == torch.bool
    )
    bare = CocoDataset(
        images, path, ("thing",), transform=eval_transform(cfg), needs_full_masks=False
    )[0].targets
    assert bare.masks is None and not bare.reduced


# ------------------------------------------------------------------------------------------- images


def test_grey_palette_alpha_and_16_bit_images_become_rgb(tmp_path):
    grey = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 256
    rgb = np.stack([grey, grey // 2, 255 - grey], -1).astype(np.uint8)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([rgb, np.full((48, 64), 7, np.uint8)])).save(tmp_path / "rgba.png")
    Image.fromarray(rgb // 64 * 64).quantize(64).save(tmp_path / "palette.png")
    cv2.imwrite(str(tmp_path / "deep.png"), grey * 256 + 255)
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1))
    assert np.array_equal(read_image(tmp_path / "rgba.png"), rgb)
    palette = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "palette.png"), palette)
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.repeat(grey[..., None], 3, -1))


def test_exif_orientation_is_not_applied(tmp_path):
    image = Image.new("RGB", (64, 48), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (48, 64, 3)


def test_a_jpeg_with_bytes_after_its_end_is_read(tmp_path):
    source = next((COCO / "images").glob("*.jpg"))
    (tmp_path / "camera.jpg").write_bytes(source.read_bytes() + bytes(500))
    assert np.array_equal(read_image(tmp_path / "camera.jpg"), read_image(source))


@pytest.mark.parametrize("name", ["jpg", "png"])
def test_a_missing_empty_or_truncated_image_is_named_with_the_fix(tmp_path, name):
    source = next((COCO if name == "jpg" else NUCLEI).joinpath("images").iterdir())
    path = tmp_path / f"broken.{name}"
    with pytest.raises(ValueError, match=r"broken\.\w+ does not exist: correct"):
        read_image(path)
    for content, reason in (
        (b"", "is empty"),
        (source.read_bytes()[: len(source.read_bytes()) // 2], "is truncated"),
        (source.read_bytes()[:-40], "is truncated"),
        (b"not an image at all", "cannot be decoded"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"broken\.\w+ {reason}.*: copy"):
            read_image(path)


def test_an_image_of_another_size_than_stated_is_refused(tmp_path):
    data = dataset(tmp_path)
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(
        ValueError,
        match=r"a\.png has 48x64 pixels, but .*annotations\.json says 64x48; "
        r"they are swapped.*correct width",
    ):
        data[0]


# ----------------------------------------------------------------------------------------- mistakes


def test_missing_truncated_and_foreign_json_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json does not exist: correct"):
        read_coco(tmp_path / "none.json")
    _, path = write_set(tmp_path)
    text = path.read_text()
    path.write_text(text[:100])
    with pytest.raises(
        ValueError,
        match=r"annotations\.json is not valid JSON at line 1, column \d+ \(character \d+ of 100; ",
    ):
        read_coco(path)
    path.write_text(text[:-1])
    with pytest.raises(ValueError, match="copy or download it again, it is cut off there"):
        read_coco(path)
    path.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read_coco(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no list of images, annotations, categories"):
        read_coco(path)
    path.write_text(json.dumps({"images": [], "annotations": [3], "categories": []}))
    with pytest.raises(ValueError, match="has 3 as entry 0 of annotations"):
        read_coco(path)


NAN = float("nan")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"category": 3}, r"annotation 77 has category id 3, .*correct the id"),
        ({"category": "1"}, r"annotation 77 has category id '1', .*there is 1, of another type"),
        ({"image": 5}, r"annotation 77 belongs to image 5, .*add the image"),
        ({"bbox": [10, 10, NAN, 20]}, r"annotation 77 has the box .*NaN"),
        ({"bbox": [10, 10, -5, 20]}, r"annotation 77 has the box .*negative size"),
        ({"bbox": [10, 10]}, r"annotation 77 has the box .*write bbox"),
        ({"segmentation": [[1, 1, 5, 5]]}, r"annotation 77 has a polygon of 2 points.*at least 3"),
        ({"segmentation": [[1, 1, 5, 5, 9]]}, r"annotation 77 has a polygon of 2 points"),
        ({"segmentation": [[1, 1, NAN, 5, 9, 9]]}, r"annotation 77 has a polygon with NaN"),
        (
            {"segmentation": [[1, 1, float("inf"), 5, 9, 9]]},
            r"annotation 77 has a polygon with NaN or infinity",
        ),
        (
            {"segmentation": [[1, 1, "x", 5, 9, 9]]},
            r"annotation 77 has a polygon with something that is not a number",
        ),
        (
            {"segmentation": [[1, 1, 1e9, 5, 9, 9]]},
            r"annotation 77 has a polygon from 1 to 1000000000\.0",
        ),
        ({"segmentation": []}, r"annotation 77 has no segmentation"),
        (
            {"segmentation": {"size": [64, 48], "counts": [64 * 48]}},
            r"annotation 77 has an RLE of size .*swapped",
        ),
        (
            {"segmentation": {"size": [48, 64], "counts": [5, 10]}},
            r"annotation 77 has an RLE whose runs cover 15 pixels.*3072",
        ),
        (
            {"segmentation": {"size": [48, 64], "counts": "52"}},
            r"annotation 77 has an RLE whose runs cover",
        ),
    ],
)
def test_a_bad_annotation_is_refused_by_id_with_the_fix(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, annotations=[annotation(1), annotation(77, **changes)])


def test_class_names_and_categories_that_disagree_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"1 categories and data.class_names has 2.*class 'other' has no category.*"
        r"set data.class_names=",
    ):
        dataset(tmp_path, ("thing", "other"))
    with pytest.raises(
        ValueError, match=r"category 'thing' is not in data.class_names; did you mean things\?"
    ):
        dataset(tmp_path, ("things",))
    with pytest.raises(ValueError, match=r"category ids \[1\], which data.label_map lacks"):
        dataset(tmp_path, label_map={2: 0})
    unused = [{"id": 0, "name": "root"}, {"id": 1, "name": "thing"}]  # as some exporters write
    assert len(dataset(tmp_path, categories=unused)) == 1


def test_images_that_share_an_id_or_lack_a_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'a.png' and 'b.png' share the id 1"):
        dataset(tmp_path, images=[image_entry(1, "a.png"), image_entry(1, "b.png")])
    with pytest.raises(ValueError, match=r"image 'a.png' has no width"):
        dataset(tmp_path, images=[{"id": 1, "file_name": "a.png", "height": 4}], draw=False)
    with pytest.raises(ValueError, match=r"image 'a.png' has width 0"):
        dataset(tmp_path, images=[image_entry(width=0)], draw=False)


def test_masks_of_large_images_are_filled_in_where_they_are_in_view(tmp_path, monkeypatch):
    """Filled in by column, as large images are, or decoded whole: the same pixels, which are those
    of pycocotools, cut at the view. One polygon touches the top and the bottom, one leaves."""
    height, width = 90, 120
    rings = [
        [10, 5, 60, 8, 55, 70, 12, 60],
        [30, -5, 70, -5, 70, 95, 30, 95],
        [100, 20, 140, 20, 140, 70, 100, 70],
    ]
    images, path = write_set(
        tmp_path,
        images=[image_entry(width=width, height=height)],
        annotations=[annotation(n + 1, segmentation=[ring]) for n, ring in enumerate(rings)],
    )
    data = CocoDataset(images, path, ("thing",))
    whole = [coco_mask.decode(data.table.encoded_mask(row, height, width)) for row in range(3)]
    for view in (
        Viewport(0, 0, height, width),
        Viewport(20, 40, 30, 500),
        Viewport(-9, -9, 15, 30),
    ):
        seen = np.zeros((height, width), bool)
        seen[max(view.top, 0) : view.top + view.height, max(view.left, 0) :][
            :, : view.left + view.width - max(view.left, 0)
        ] = True
        for large in (0, 1 << 20):
            monkeypatch.setattr("data.coco.LARGE", large)
            patches = data.patches([0, 1, 2], height, width, view)
            for patch, mask in zip(patches, whole, strict=True):
                placed = np.zeros((height, width), np.uint8)
                h, w = patch.pixels.shape
                placed[patch.top : patch.top + h, patch.left : patch.left + w] = patch.pixels
                assert np.array_equal(placed, mask * seen)
