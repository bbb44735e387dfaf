"""The split of a folder keeps groups together and has all classes; it depends on the seed."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from cbam_det.datasets.layouts.files import split_of_name
from cbam_det.datasets.layouts.split import sequence_of, source_of, split_images


def coco(names: list[str], classes: list[int] | None = None) -> dict:
    """A COCO dictionary with images of these names and one object each."""
    classes = classes or [1] * len(names)
    return dict(
        images=[dict(id=number, file_name=name) for number, name in enumerate(names)],
        annotations=[dict(image_id=n, category_id=c) for n, c in enumerate(classes)],
    )


def names_of(ids: set[int], raw: dict) -> set[str]:
    return {raw['images'][number]['file_name'] for number in ids}


def test_frames_of_a_video_are_in_one_part():
    names = [f'street {video}/frame_{n:04}.jpg' for video in 'abcdef' for n in range(10)]
    raw = coco(names)
    halves = split_images(raw)
    folders = [{name.partition('/')[0] for name in names_of(part, raw)} for part in halves[:2]]
    assert not folders[0] & folders[1]
    assert 6 <= len(halves.val) <= 24 and len(halves.train) + len(halves.val) == 60
    assert 'by 6 sequences' in halves.description


def test_copies_that_roboflow_augments_are_in_one_part():
    names = [f'cell{n}x_jpg.rf.{copy}a1b2.jpg' for n in range(10) for copy in 'abc']
    raw = coco(names)
    halves = split_images(raw)
    sources = [{source_of(name) for name in names_of(part, raw)} for part in halves[:2]]
    assert not sources[0] & sources[1] and len(sources[1]) == 2


def test_frames_of_a_single_video_are_split_by_blocks():
    raw = coco([f'frame_{n}.png' for n in range(100)])
    val = sorted(split_images(raw).val)
    assert len(val) == 20 and sum(b - a > 1 for a, b in pairwise(val)) <= 1


@pytest.mark.parametrize(
    ('names', 'reason'),
    [
        ([f'frame_{n:06}.jpg' for n in range(12)], 'all names belong to one sequence (if it is a'),
        ([f'clip1_{n:05}.jpg' for n in range(40)], 'all names belong to one sequence (if it is a'),
        ([f'{chr(97 + n)}x.jpg' for n in range(12)], 'their names show no sequences'),
    ],
)
def test_images_of_one_sequence_that_are_split_one_by_one_are_not_said_to_have_none(names, reason):
    assert split_images(coco(names)).description.startswith(f'by images; {reason}')


def test_images_named_after_their_class_are_not_split_as_sequences():
    """A split by such sequences would leave classes out of training."""
    names = [f'{name}_{n}.jpg' for name in ('cat', 'dog', 'cow', 'pig', 'hen') for n in range(8)]
    raw = coco(names, [1 + n // 8 for n in range(40)])
    halves = split_images(raw)
    assert len(halves.val) == 8 and 'the only ones of a class' in halves.description
    for part in halves[:2]:
        assert {raw['annotations'][n]['category_id'] for n in part} >= (
            {1, 2, 3, 4, 5} if part is halves.train else {1}
        )


def test_split_is_the_same_for_one_seed_and_differs_for_another():
    raw = coco([f'{n:06}.jpg' for n in range(50)])
    assert split_images(raw, 1) == split_images(raw, 1) != split_images(raw, 2)


@pytest.mark.parametrize('count', [2, 3, 12])
def test_few_images_give_two_parts(count):
    halves = split_images(coco([f'{n}.jpg' for n in range(count)]))
    assert len(halves.val) == max(1, round(count / 5)) and len(halves.train) == count - len(
        halves.val
    )


def test_class_of_a_single_image_is_in_training():
    raw = coco([f'{n}.jpg' for n in range(30)], [2] + [1] * 29)
    assert all(0 in split_images(raw, seed).train for seed in range(5))


@pytest.mark.parametrize(
    ('name', 'sequence'),
    [
        ('a/clip 3 - 0012.jpg', 'a/clip 3'),
        ('a/0012.jpg', 'a/0'),
        ('IMG_0012 (1).JPG', 'IMG_0012'),
        ('v2_frame7_jpg.rf.0a1b.jpg', 'v2_frame'),
        ('no number.png', 'no number'),
    ],
)
def test_sequence_is_the_name_without_the_number_at_its_end(name, sequence):
    assert sequence_of(name) == sequence


@pytest.mark.parametrize(
    ('name', 'split'),
    [
        *dict(train='train', valid='val', Validation='val', test='test').items(),
        *dict(train2017='train', obj_train_data='train', obj_Validation_data='val').items(),
        *dict(training='train', test_set='test', images_val='val').items(),
        *dict(street=None, tests=None, trains=None, images=None, constraint=None).items(),
    ],
)
def test_split_follows_from_the_whole_name_of_a_folder(name, split):
    assert split_of_name(name) == split


def test_time_of_a_split_grows_only_linearly():
    """Sets of the earlier images were copied for each image: 12 s for 20,000 images."""
    raw = coco([f'{n:06}x.jpg' for n in range(20_000)])
    start = time.process_time()
    assert len(split_images(raw).val) == 4_000
    assert time.process_time() - start < 5
