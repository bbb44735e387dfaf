"""Folders as people have them: links, other files, other endings, names twice, labels alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cbam_det.datasets.layouts import sets as module
from cbam_det.datasets.layouts.files import PROJECT_FILES, list_files
from cbam_det.datasets.layouts.sets import Sets, read_sets
from cbam_det.utils.errors import InputError

from .damaged_sets import picture

LABEL = '0 0.5 0.5 0.5 0.5\n'
SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


def read(folder: Path) -> Sets:
    return read_sets(folder, progress=False)


def counts(sets: Sets) -> tuple[int, int]:
    """The numbers of all images and of all objects."""
    raws = sets.splits.values()
    return sum(len(raw['images']) for raw in raws), sum(len(raw['annotations']) for raw in raws)


def yolo(root: Path, images: int = 6) -> None:
    for number in range(images):
        picture(root / f'{number}.png', number)
        (root / f'{number}.txt').write_text(LABEL)
    (root / 'classes.txt').write_text('cat\ndog\n')


def coco(root: Path, names: list[str], box: tuple[int, ...] = (1, 1, 9, 9)) -> dict:
    images = [dict(id=n, file_name=name, width=48, height=40) for n, name in enumerate(names)]
    boxes = [
        dict(id=n, image_id=n, category_id=1, bbox=list(box), area=81, iscrowd=0)
        for n in range(len(names))
    ]
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name='cat')])
    (root / 'all.json').write_text(json.dumps(content))
    return content


def test_links_without_target_folders_with_endings_and_other_yaml_files_are_no_data(tmp_path):
    yolo(tmp_path)
    for name in ('a.txt', 'a.json', 'a.xml', 'a.yaml', 'a.png'):
        (tmp_path / name).symlink_to(tmp_path / 'nothing')
    (tmp_path / 'folder.json').mkdir()
    (tmp_path / 'docker.yml').write_text('a: "b\n')
    assert counts(read(tmp_path)) == (6, 6)


def test_project_inside_the_data_is_not_read(tmp_path):
    yolo(tmp_path)
    (tmp_path / 'project/annotations').mkdir(parents=True)
    coco(tmp_path / 'project/annotations', ['0.png'])
    with pytest.raises(InputError, match='several layouts'):
        read(tmp_path)
    for name in PROJECT_FILES:
        (tmp_path / 'project' / name).touch()
    assert counts(read(tmp_path)) == (6, 6)


@pytest.mark.parametrize(
    'change',
    [
        lambda file: file.rename(file.with_suffix('.TXT')),
        lambda file: file.write_text(f'\n{LABEL}', encoding='utf-8-sig'),
        lambda file: file.write_bytes(LABEL.replace('\n', '\r\n').encode()),
    ],
    ids=['upper case', 'mark and blank line', 'line ends of Windows'],
)
def test_labels_of_windows_programs_are_read(change: Callable[[Path], object], tmp_path):
    yolo(tmp_path)
    for file in sorted(tmp_path.glob('[0-9].txt')):
        change(file)
    assert counts(read(tmp_path)) == (6, 6)


def test_labels_without_an_image_are_counted_and_most_of_them_are_an_error(tmp_path):
    yolo(tmp_path)
    (tmp_path / '0.png').rename(tmp_path / '0.heic')
    sets = read(tmp_path)
    note = f'all: 1 label files without an image are left out: {tmp_path / "0.txt"}'
    assert counts(sets) == (5, 5) and note in sets.notes
    for number in range(1, 4):
        (tmp_path / f'{number}.png').unlink()
    with pytest.raises(InputError, match=r'no image for 4 of 6 YOLO label files .* \(.jpg, '):
        read(tmp_path)


def test_two_images_of_one_label_or_of_one_name_are_an_error(tmp_path):
    yolo(tmp_path)
    picture(tmp_path / '3.jpg', 9)
    with pytest.raises(InputError, match=r'3\.txt can be the label file of .*3\.jpg and .*3\.png'):
        read(tmp_path)
    folder = tmp_path / 'coco'
    for name in ('a', 'b'):
        (folder / name).mkdir(parents=True)
        picture(folder / name / 'x.png', ord(name))
    content = coco(folder, ['x.png', 'x.png'])
    with pytest.raises(InputError, match=r'the image x\.png can be .*a/x\.png, .*b/x\.png; write'):
        read(folder)
    content['images'][0]['file_name'], content['images'][1]['file_name'] = 'a/x.png', 'b/x.png'
    (folder / 'all.json').write_text(json.dumps(content))
    assert counts(read(folder)) == (2, 2)


def test_split_of_data_yaml_without_images_is_named(tmp_path):
    for split in ('train', 'test'):
        (tmp_path / split).mkdir()
        yolo(tmp_path / split, 3)
        (tmp_path / split / 'classes.txt').unlink()
    picture(tmp_path / 'test/0.png', 7)
    text = 'train: train\nval: valid\ntest: test\nnames: [cat]\n'
    (tmp_path / 'data.yaml').write_text(text)
    notes = read(tmp_path).notes
    assert f'train: no image was found for val: valid of {tmp_path / "data.yaml"}' in notes


def test_objects_in_one_image_are_too_few_and_both_parts_have_objects(tmp_path):
    yolo(tmp_path, 10)
    for number in range(1, 10):
        (tmp_path / f'{number}.txt').write_text('')
    with pytest.raises(InputError, match='objects in 1 of its 10 images; annotate more'):
        read(tmp_path)
    for number in range(8):  # one sequence with all objects, another without
        for ending in ('png', 'txt'):
            shutil.move(tmp_path / f'{number}.{ending}', tmp_path / f'seen_{number}.{ending}')
        (tmp_path / f'seen_{number}.txt').write_text(LABEL)
    sets = read(tmp_path)
    assert all(raw['annotations'] for raw in sets.splits.values())


def test_other_xml_and_similar_class_names_are_named_and_corners_are_read(tmp_path):
    voc, corners = tmp_path / 'voc', tmp_path / 'corners'
    for folder in (voc, corners):
        folder.mkdir()
    box = ''.join(f'<{side}>{n}</{side}>' for side, n in zip(SIDES, (1, 1, 9, 9), strict=True))
    (voc / '000.xml').write_text('<project/>')
    for number, name in enumerate(('cat', 'Cat ', 'cat', 'traffic light', 'traffic_light', 'dog')):
        picture(voc / f'x{number}.png', number)
        item = f'<object><name>{name}</name><bndbox>{box}</bndbox></object>'
        (voc / f'x{number}.xml').write_text(f'<annotation>{item}</annotation>')
        picture(corners / f'x{number}.png', number)
    sets = read(voc)
    similar = "'Cat ' and 'cat', 'traffic light' and 'traffic_light'"
    assert f'classes with almost the same name: {similar}; are they one?' in sets.notes
    assert counts(sets) == (6, 6)
    coco(corners, [f'x{number}.png' for number in range(6)], (30, 20, 46, 38))
    sets = read(corners)
    assert 'all: all boxes are read as x1, y1, x2, y2' in sets.notes
    assert sets.splits['train']['annotations'][0]['bbox'] == [30, 20, 16, 18]


def test_annotation_whose_image_id_is_a_list_is_left_out(tmp_path):
    for number in range(12):
        picture(tmp_path / f'{number}.png', number)
    content = coco(tmp_path, [f'{number}.png' for number in range(12)])
    content['annotations'][3]['image_id'] = [3]
    (tmp_path / 'all.json').write_text(json.dumps(content))
    assert counts(read(tmp_path)) == (12, 11)


def test_folders_that_systems_add_are_not_read(tmp_path):
    yolo(tmp_path, 4)
    for name in ('lost+found', '__MACOSX', '.Trash'):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / 'deleted.png', 9)
    assert len(list_files(tmp_path).images) == 4


def test_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def deny(files: object) -> None:
        raise PermissionError(13, 'Permission denied', str(tmp_path / 'x.json'))

    yolo(tmp_path)
    monkeypatch.setitem(module.LAYOUTS, 'yolo', (module.LAYOUTS['yolo'][0], deny))
    with pytest.raises(InputError, match=r'x\.json cannot be read \(Permission denied\); give'):
        read(tmp_path)
