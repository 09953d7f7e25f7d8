import io
import itertools
import pickle

import pytest
import torch

from data.coco import _own_randomness
from data.loader import (
    TrainOrder,
    build_dataset,
    collate,
    eval_loader,
    train_loader,
)
from layers.masks import signed_distance_map
from tests.data.sets import COCO, NUCLEI, annotation, config, image_entry, real_data, write_set

SIZES = [(32, 32), (16, 16)]
DISTANCE = ("distance", SIZES[0])


def coco(batch=4, split="train", **train):
    cfg = config(real_data(COCO), batch=batch, **train)
    return cfg, build_dataset(cfg, split, mask_sizes=SIZES)


def take(loader, count):
    return list(itertools.islice(loader, count))


def same(a, b) -> bool:
    return (
        torch.equal(a.images, b.images)
        and a.image_ids == b.image_ids
        and a.indices == b.indices
        and a.original_sizes == b.original_sizes
        and all(
            torch.equal(x.boxes, y.boxes)
            and torch.equal(x.labels, y.labels)
            and torch.equal(x.crowd, y.crowd)
            and x.reduced.keys() == y.reduced.keys()
            and all(torch.equal(x.reduced[s], y.reduced[s]) for s in x.reduced)
            for x, y in zip(a.targets, b.targets, strict=True)
        )
    )


def keys(order, count):
    return [key for batch in itertools.islice(order, count) for key in batch]


def test_batches_are_bit_identical_for_0_1_and_4_workers():
    cfg, dataset = coco()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # in the main process; a worker has one
    try:
        alone = take(train_loader(cfg, dataset, num_workers=0), 5)  # into the third epoch
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for workers in (1, 4):
        assert all(
            same(a, b)
            for a, b in zip(
                alone, take(train_loader(cfg, dataset, num_workers=workers), 5), strict=True
            )
        )
    assert not torch.equal(alone[0].images[0], alone[1].images[0])


def test_a_sample_depends_on_seed_epoch_and_index_alone_and_leaves_the_training_generator_alone():
    cfg, dataset = coco()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, other_epoch, other_seed = dataset[2, 1], dataset[3, 1], coco(seed=9)[1][2, 1]
    take(train_loader(cfg, dataset, num_workers=0), 2)
    take(train_loader(cfg, dataset, num_workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again = dataset[2, 1]
    assert torch.equal(first.image, again.image) and torch.equal(
        first.targets.boxes, again.targets.boxes
    )
    assert not torch.equal(first.image, other_epoch.image) and not torch.equal(
        first.image, other_seed.image
    )


def test_every_epoch_holds_every_image_once_in_another_order():
    sequence = keys(TrainOrder(10, seed=0, batch_size=4), 10)
    epochs = [[index for _, index in sequence[10 * e : 10 * e + 10]] for e in range(4)]
    assert [epoch for epoch, _ in sequence] == sorted(epoch for epoch, _ in sequence)
    assert (
        all(sorted(epoch) == list(range(10)) for epoch in epochs)
        and len({tuple(e) for e in epochs}) == 4
    )
    assert sequence != keys(TrainOrder(10, seed=1, batch_size=4), 10)


def test_starting_later_gives_the_same_batches():
    whole = keys(TrainOrder(7, seed=5, batch_size=4), 9)
    assert keys(TrainOrder(7, seed=5, batch_size=4, start_step=6), 3) == whole[24:]
    cfg, dataset = coco()
    first = take(train_loader(cfg, dataset, num_workers=0), 4)
    assert same(take(train_loader(cfg, dataset, start_step=3, num_workers=2), 1)[0], first[3])


def test_ranks_and_micro_batches_cut_the_global_batch_in_order():
    whole = list(itertools.islice(TrainOrder(9, seed=5, batch_size=8), 3))
    ranks = [
        list(
            itertools.islice(
                TrainOrder(9, seed=5, batch_size=8, accumulate=2, rank=r, world_size=2), 6
            )
        )
        for r in range(2)
    ]
    for step, batch in enumerate(whole):
        parts = [ranks[r][2 * step + k] for r in range(2) for k in range(2)]
        assert all(len(part) == 2 for part in parts) and sum(parts, []) == batch
    with pytest.raises(
        ValueError,
        match=r"batch_size=8 cannot be split over 3 devices x 1 micro-batches: use a multiple of 3",
    ):
        TrainOrder(9, seed=0, batch_size=8, world_size=3)


def test_without_shuffling_every_epoch_is_in_the_order_of_the_file():
    whole = keys(TrainOrder(5, seed=0, batch_size=4, shuffle=False), 5)
    assert whole == [(epoch, index) for epoch in range(4) for index in range(5)]
    assert keys(TrainOrder(5, seed=0, batch_size=4, start_step=3, shuffle=False), 2) == whole[12:]
    ranks = [
        list(
            itertools.islice(
                TrainOrder(5, seed=0, batch_size=4, rank=r, world_size=2, shuffle=False), 5
            )
        )
        for r in range(2)
    ]
    assert [key for step in zip(*ranks, strict=True) for part in step for key in part] == whole


def test_without_shuffling_a_resumed_loader_gives_the_same_batches_with_any_workers():
    cfg, dataset = coco(shuffle=False)
    first = take(train_loader(cfg, dataset, num_workers=0), 4)
    assert sum((batch.indices for batch in first), []) == [i % len(dataset) for i in range(16)]
    assert [image for batch in first for image in batch.image_ids][
        : len(dataset)
    ] == dataset.image_ids
    assert not torch.equal(
        first[0].images[0],
        take(train_loader(cfg, dataset, start_step=len(dataset), num_workers=0), 1)[0].images[0],
    )
    resumed = take(train_loader(cfg, dataset, start_step=2, num_workers=2), 2)
    assert all(same(a, b) for a, b in zip(first[2:], resumed, strict=True))


def test_training_batches_carry_bytes_and_reduced_bool_masks():
    cfg, dataset = coco()
    batch = take(train_loader(cfg, dataset), 1)[0]
    assert batch.images.shape == (4, 3, 128, 128) and batch.images.dtype == torch.uint8
    for target in batch.targets:
        assert target.masks is None and set(target.reduced) == set(SIZES)
        assert all(
            m.dtype == torch.bool and m.shape == (len(target), *s)
            for s, m in target.reduced.items()
        )
    full = build_dataset(cfg, "train", mask_sizes=SIZES, needs_full_masks=True)[0, 0].targets
    assert full.masks.dtype == torch.bool and full.masks.shape[1:] == (128, 128)
    moved = batch.to("cpu")
    assert same(moved, batch)


def test_distances_are_carried_only_where_they_are_asked_for():
    cfg, plain = coco()
    asked = build_dataset(cfg, "train", mask_sizes=SIZES, extras=[DISTANCE])
    without, batch = (
        take(train_loader(cfg, dataset, num_workers=1), 1)[0] for dataset in (plain, asked)
    )
    for before, after in zip(without.targets, batch.targets, strict=True):
        assert not before.extras and set(after.extras) == {DISTANCE}
        assert torch.equal(after.extras[DISTANCE], signed_distance_map(before.reduced[SIZES[0]]))
    assert same(without, batch)


class Shipment(pickle.Pickler):
    """Counts the tensors of what a worker hands over: each takes a file descriptor in both
    processes."""

    def __init__(self, content):
        super().__init__(io.BytesIO())
        self.tensors = 0
        self.dump(content)

    def persistent_id(self, item):
        self.tensors += isinstance(item, torch.Tensor)
        return "tensor" if isinstance(item, torch.Tensor) else None


@pytest.mark.parametrize("images", [1, 4, 16])
def test_a_batch_of_any_size_is_handed_over_as_a_few_tensors(images):
    cfg, _ = coco(split="val")
    # with an empty image
    dataset = build_dataset(cfg, "val", mask_sizes=SIZES, needs_full_masks=True, extras=[DISTANCE])
    samples = [dataset[0, i % len(dataset)] for i in range(images)]
    batch = collate(samples)
    # images, boxes, labels, crowd, full masks, two reduced sizes, one of distances
    assert Shipment(batch).tensors == 8
    assert len(batch.targets) == images
    for seen in (batch, pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        for sample, target in zip(samples, seen.targets, strict=True):
            own = sample.targets
            assert (
                torch.equal(own.boxes, target.boxes)
                and torch.equal(own.labels, target.labels)
                and torch.equal(own.crowd, target.crowd)
            )
            assert torch.equal(own.masks, target.masks) and target.masks.is_contiguous()
            for carried, expected in (
                (target.reduced, own.reduced),
                (target.extras, own.extras),
            ):
                assert carried.keys() == expected.keys() and all(
                    torch.equal(carried[size], expected[size]) for size in carried
                )


def test_evaluation_reads_every_image_once_in_order():
    cfg, dataset = coco(split="val")
    assert len(dataset) == 4  # one of them has no annotation
    batches = list(eval_loader(cfg, dataset, num_workers=0))
    assert sum((b.image_ids for b in batches), []) == dataset.image_ids and [
        len(b.indices) for b in batches
    ] == [2, 2]
    assert batches[0].images.dtype == torch.float32 and batches[0].images.max() > 1
    assert sum((b.indices for b in eval_loader(cfg, dataset, limit=3, num_workers=0)), []) == [
        0,
        1,
        2,
    ]
    assert len(eval_loader(cfg, dataset, limit=3)) == 2


def test_crowded_images_of_real_data_load():
    cfg = config(real_data(NUCLEI))
    data = build_dataset(cfg, "val", mask_sizes=SIZES)
    assert max(len(data[i].targets) for i in range(len(data))) == 101


# ----------------------------------------------------------------------------------------- mistakes


def broken_set(root):
    images, _ = write_set(
        root,
        images=[image_entry(i, f"{i}.png") for i in range(4)],
        annotations=[annotation(i, i) for i in range(4)],
    )
    (images / "2.png").write_bytes(b"")
    return config(
        real_data(
            COCO,
            root=str(root),
            train_annotations="annotations.json",
            val_annotations="annotations.json",
            class_names=("thing",),
        )
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_arrives_as_one_line(tmp_path, workers):
    cfg = broken_set(tmp_path)
    with pytest.raises(ValueError) as caught:
        take(train_loader(cfg, build_dataset(cfg, "train"), num_workers=workers), 4)
    assert (
        str(caught.value)
        == f"image {tmp_path / 'images' / '2.png'} is empty (0 bytes): copy or download it again"
    )


def test_empty_and_nameless_splits_are_refused(tmp_path):
    write_set(tmp_path, annotations=[])
    made_up = dict(
        root=str(tmp_path),
        train_annotations="annotations.json",
        val_annotations="annotations.json",
        class_names=("thing",),
    )
    with pytest.raises(ValueError, match=r"the train set is empty: .*data.keep_empty=true"):
        build_dataset(config(real_data(COCO, **made_up)), "train")
    assert len(build_dataset(config(real_data(COCO, **made_up, keep_empty=True)), "train")) == 1
    write_set(tmp_path, images=[], annotations=[])
    with pytest.raises(ValueError, match=r"the val set is empty: .*correct data.val_annotations"):
        build_dataset(config(real_data(COCO, **made_up)), "val")
    with pytest.raises(ValueError, match="no data.val_images"):
        build_dataset(config(real_data(COCO, val_images="")), "val")


def test_a_sample_is_augmented_on_one_thread_whatever_the_process_uses(monkeypatch):
    """Sums over an image, as in a contrast change, may differ in the last bit with the number of
    threads."""
    _, dataset = coco()
    render, seen, threads = dataset.transform.render, [], torch.get_num_threads()
    monkeypatch.setattr(
        dataset.transform,
        "render",
        lambda *given: (seen.append(torch.get_num_threads()), render(*given))[1],
    )
    torch.set_num_threads(2)
    try:
        dataset[0]
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "seed, epoch, order", [(0, 0, [7, 4, 0, 3, 5, 6, 2, 1]), (7, 3, [4, 3, 2, 7, 0, 1, 6, 5])]
)
def test_the_order_of_a_seed_is_that_of_earlier_runs(seed, epoch, order):
    """Written by the first version of this loader: a resumed run goes on in its order."""
    keys = TrainOrder(8, seed=seed, batch_size=8)
    assert [keys.key(8 * epoch + place) for place in range(8)] == [(epoch, i) for i in order]


def test_the_augmentation_of_a_sample_is_that_of_earlier_runs():
    with _own_randomness(0, 3, 5):
        drawn = torch.rand(3)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(1544404041809230231))
    assert torch.equal(drawn, expected)
