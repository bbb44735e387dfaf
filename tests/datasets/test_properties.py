"""Properties of readers, patterns and conversions, on inputs that hypothesis generates."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset, XMLDataset
from torchvision.models import resnet18

from cbam_det import CBAM
from cbam_det.checkpoints.formats import FACTORS
from cbam_det.datasets.validation.coco import list_coco
from cbam_det.datasets.validation.voc import read_voc
from cbam_det.models.channels import module_names
from cbam_det.models.insertion import match
from cbam_det.utils.errors import InputError

from ..checkpoints.starts import to_identity, to_paper
from ..fuzz import damaged, fuzz, subjects

some_examples = settings(max_examples=80, deadline=None, database=None, derandomize=True)
# Numbers near the edges of a 48 x 40 image.
numbers = st.one_of(
    st.sampled_from([-1, 0, 0.5, 1, 2, 39, 40, 41, 47, 48, 49, 1e9]),
    st.floats(-60, 60, allow_nan=False),
)
boxes = st.lists(numbers, min_size=4, max_size=4)


@pytest.fixture(scope='module')
def small_sets(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return subjects(tmp_path_factory.mktemp('fuzz') / 'sets')


@pytest.mark.parametrize(
    'name', ['COCO, a value', 'COCO, bytes', 'COCO, an image', 'VOC, an XML', 'VOC, the list']
)
def test_damaged_set_is_read_by_mmdet_or_refused_and_its_clean_copy_is_clean(name, small_sets):
    subject = small_sets[name]
    outcomes = set()

    @some_examples
    @given(st.randoms(use_true_random=False))
    def damage(rng: random.Random) -> None:
        outcomes.add(subject.run(damaged(name, subject, rng)))

    damage()
    assert subject.run(subject.original) == 'clean'
    assert 'refused' in outcomes


@some_examples
@given(boxes, numbers)
def test_coco_boxes_that_mmdet_ignores_are_those_that_are_counted(box, area):
    annotation = dict(id=1, image_id=1, category_id=1, bbox=box, area=area)
    image = dict(id=1, file_name='one.jpg', width=48, height=40)
    raw = dict(images=[image], annotations=[annotation], categories=[dict(id=1, name='cat')])
    kinds = [fault.kind for fault in list_coco(Path('a.json'), raw, '', needs_crowd=False).faults]
    assume('boxes in 0..1' not in kinds)  # this fault replaces the others
    reader = CocoDataset(lazy_init=True, data_prefix=dict(img=''), metainfo=dict(classes=('cat',)))
    reader.cat_ids, reader.cat2label = [1], {1: 0}
    info = dict(raw_ann_info=[annotation], raw_img_info=dict(image, img_id=1))
    kept = reader.parse_data_info(info)['instances']
    ignored = {'box without area', 'box outside the image'} & set(kinds)
    assert bool(kept) != bool(ignored)


@some_examples
@given(st.lists(numbers, min_size=4, max_size=4), st.booleans())
def test_harmful_voc_boxes_are_those_without_area_in_the_image(tmp_path_factory, sides, hard):
    tags = zip(('xmin', 'ymin', 'xmax', 'ymax'), sides, strict=True)
    xml = (
        '<annotation><size><width>48</width><height>40</height></size><object><name>cat</name>'
        f'<difficult>{int(hard)}</difficult><bndbox>'
        + ''.join(f'<{tag}>{side}</{tag}>' for tag, side in tags)
        + '</bndbox></object></annotation>'
    )
    root = tmp_path_factory.getbasetemp()
    (root / 'box.xml').write_text(xml)
    (root / 'box.txt').write_text('box\n')
    content = read_voc(root / 'box.txt', root, root)
    reader = XMLDataset(lazy_init=True, metainfo=dict(classes=('cat',)))
    reader.cat2label = {'cat': 0}
    (instance,) = reader._parse_instance_info(ET.fromstring(xml))
    left, top, right, bottom = instance['bbox']  # Resize clips it to the image
    without_area = min(right, 48) <= max(left, 0) or min(bottom, 40) <= max(top, 0)
    assert any(fault.harmful for fault in content.faults) == (
        without_area and not instance['ignore_flag']
    )


HOST = resnet18(weights=None)
NAMES = list(module_names(HOST))


def part(name: str) -> st.SearchStrategy[str]:
    """Patterns for one part of a name."""
    return st.sampled_from(
        [name, '*', f'{name[:1]}*', f'*{name[-1:]}', '?' * len(name), f'[!{name[:1]}]*', '[0-9]']
    )


@some_examples
@given(st.data())
def test_pattern_matches_if_fnmatch_matches_each_part_between_dots(data):
    parts = data.draw(st.sampled_from(NAMES[1:])).split('.')
    pattern = [data.draw(part(name)) for name in parts]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(pattern)))
        pattern[at : data.draw(st.integers(at, len(pattern)))] = ['**']
    spread = [
        [piece for pieces in chosen for piece in pieces]
        for chosen in product(
            *([['*'] * n for n in range(6)] if piece == '**' else [[piece]] for piece in pattern)
        )
    ]
    expected = [
        name
        for name in NAMES
        if any(
            len(name.split('.')) == len(pieces) and all(map(fnmatchcase, name.split('.'), pieces))
            for pieces in spread
        )
    ]
    try:
        assert match(HOST, '.'.join(pattern)) == expected
    except InputError:
        assert expected == []


def state_of(options: dict, seed: int, channels: int, ratio: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    module = CBAM(channels, ratio=ratio, **options)
    # Powers of two from -60 to 60, which float32 can multiply by 4 exactly.
    return {
        key: value
        if not value.is_floating_point() or key.endswith('gain')
        else torch.randn_like(value) * 2.0 ** torch.randint(-60, 60, value.shape)
        for key, value in module.state_dict().items()
    }


def same(state: dict, other: dict) -> bool:
    return state.keys() == other.keys() and all(
        torch.equal(state[key], other[key]) for key in state
    )


@some_examples
@given(
    order=st.sampled_from(list(FACTORS)),
    seed=st.integers(0, 999),
    channels=st.sampled_from([4, 12, 32]),
    ratio=st.sampled_from([1, 2, 4]),
)
def test_converting_weights_to_the_other_start_and_back_is_exact(order, seed, channels, ratio):
    """For a module after a norm, which the conversion needs."""
    options = dict(order=order, start='identity', ratio=ratio)
    torch.manual_seed(seed)
    norm = torch.nn.BatchNorm2d(channels).state_dict()
    inserted = state_of(dict(order=order, start='identity'), seed, channels, ratio)
    state = {f'layer1.0.bn2.{key}': value for key, value in norm.items()}
    state |= {f'inserted.layer1/0/bn2.cbam.{key}': value for key, value in inserted.items()}
    paper = to_paper(state, options)
    assert same(to_identity(paper.state, dict(options, start='paper')).state, state)


@pytest.mark.slow
def test_thousands_of_damaged_sets_end_in_a_result_or_an_input_error():
    record = fuzz(inputs=5000, seed=1)
    assert record['failures'] == []
    assert all({'clean', 'refused'} <= set(counts) for counts in record['outcomes'].values())
