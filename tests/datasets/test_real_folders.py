"""Folders as people have them: links, other files, other endings, names twice, labels alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cbam_det.datasets.layouts import sets as module
from cbam_det.datasets.layouts.files import PROJECT_FILES, list_files
from cbam_det.datasets.layouts.sets import Sets, read_sets
from cbam_det.utils.errors import InputError

from .damaged_sets import picture, sideways

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
    note = f'1 label files without an image are left out: {tmp_path / "0.txt"}'
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


def test_validation_set_of_data_yaml_without_images_is_an_error_and_a_test_set_is_noted(tmp_path):
    for split in ('train', 'test'):
        (tmp_path / split).mkdir()
        yolo(tmp_path / split, 3)
        (tmp_path / split / 'classes.txt').unlink()
    picture(tmp_path / 'test/0.png', 7)
    text = 'train: train\nval: valid\ntest: test\nnames: [cat]\n'
    (tmp_path / 'data.yaml').write_text(text)
    problem = 'no image was found for {}: {} of ' + str(tmp_path / 'data.yaml')
    with pytest.raises(InputError, match=problem.format('val', 'valid') + '; correct the path'):
        read(tmp_path)
    (tmp_path / 'data.yaml').write_text('train: train\nval: test\ntest: none\nnames: [cat]\n')
    sets = read(tmp_path)
    assert counts(sets) == (4, 4) and set(sets.splits) == {'train', 'val'}
    assert problem.format('test', 'none') + ', so there is no test set' in sets.notes


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
    assert 'all boxes are read as x1, y1, x2, y2' in sets.notes
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


@pytest.mark.parametrize(
    ('images', 'labels'),
    [('Images', 'Labels'), ('JPEGImages', 'labels'), ('IMAGES/train', 'labels/Train')],
)
def test_folders_of_labels_are_found_in_any_letter_case_and_beside_jpegimages(
    images, labels, tmp_path
):
    yolo(tmp_path)
    for folder, ending in ((images, 'png'), (labels, 'txt')):
        (tmp_path / folder).mkdir(parents=True)
        for file in sorted(tmp_path.glob(f'[0-9].{ending}')):
            file.rename(tmp_path / folder / file.name)
    assert counts(read(tmp_path)) == (6, 6)


@pytest.mark.parametrize('name', ['_darknet.labels', 'my_classes.names', 'Classes.txt'])
def test_class_names_of_other_programs_are_read(name, tmp_path):
    yolo(tmp_path)
    (tmp_path / 'classes.txt').rename(tmp_path / name)
    sets = read(tmp_path)
    assert sets.classes == ('cat', 'dog') and counts(sets) == (6, 6)


def test_decomposed_accents_of_a_mac_are_the_same_letters(tmp_path):
    accents = 'Mu\u0308ller {}', 'M\u00fcller {}'  # two characters for the letter, and one
    for layout in ('yolo', 'voc', 'coco', 'list'):
        root = tmp_path / layout
        root.mkdir()
        for number in range(4):
            written, named = (text.format(number) for text in accents)
            picture(root / f'{written}.png', number)
            if layout == 'coco':
                continue
            if layout == 'voc':
                box = ''.join(
                    f'<{side}>{n}</{side}>' for side, n in zip(SIDES, '1199', strict=True)
                )
                item = f'<object><name>cat</name><bndbox>{box}</bndbox></object>'
                (root / f'{named}.xml').write_text(f'<annotation>{item}</annotation>')
            else:
                (root / f'{named}.txt').write_text(LABEL)
        if layout == 'coco':
            coco(root, [f'{accents[1].format(number)}.png' for number in range(4)])
        elif layout != 'voc':
            (root / 'classes.txt').write_text('cat\n')
        if layout == 'list':
            (root / 'data.yaml').write_text('train: a.lst\nval: b.lst\nnames: [cat]\n')
            for name, numbers in dict(a=(0, 1, 2), b=(3,)).items():
                lines = ''.join(f'{accents[1].format(number)}.png\n' for number in numbers)
                (root / f'{name}.lst').write_text(lines)
        sets = read(root)
        assert counts(sets) == (4, 4), layout
        assert len(sets.splits['val']['images']) == 1


def voc_in_folders(root: Path, ending: str = '.png') -> None:
    """Six images and XMLs, each with a box whose left edge is the number of the image."""
    for number in range(6):
        picture(root / f'{number}.png', number)
        (root / f'{number}.png').rename(root / f'{number}{ending}')
        sides = zip(SIDES, (number + 1, 1, 20, 20), strict=True)
        box = ''.join(f'<{side}>{value}</{side}>' for side, value in sides)
        item = f'<object><name>cat</name><bndbox>{box}</bndbox></object>'
        (root / f'{number}.xml').write_text(f'<annotation>{item}</annotation>')


def left_edges(sets: Sets) -> dict[str, int]:
    edges = {}
    for raw in sets.splits.values():
        names = {image['id']: image['file_name'] for image in raw['images']}
        edges |= {names[item['image_id']]: item['bbox'][0] for item in raw['annotations']}
    return edges


@pytest.mark.parametrize('prefix', ['', 'train/'])
def test_files_of_one_name_in_mirrored_folders_are_matched_by_their_folders(prefix, tmp_path):
    voc_in_folders(tmp_path)
    for number in range(6):  # 0, 2, 4 become cam0/0, cam0/1, cam0/2
        for kind, ending in (('images', '.png'), ('xml', '.xml')):
            folder = tmp_path / kind / f'{prefix}cam{number % 2}'
            folder.mkdir(parents=True, exist_ok=True)
            (tmp_path / f'{number}{ending}').rename(folder / f'{number // 2}{ending}')
    expected = {f'images/{prefix}cam{number % 2}/{number // 2}.png': number for number in range(6)}
    assert left_edges(read(tmp_path)) == expected


def test_two_xmls_of_one_image_are_an_error(tmp_path):
    voc_in_folders(tmp_path)
    (tmp_path / 'old').mkdir()
    shutil.copy(tmp_path / '0.xml', tmp_path / 'old/0.xml')
    message = r'/0\.xml and .*/0\.xml can both be the annotation of .*0\.png; give each image'
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_coco_images_of_one_name_are_those_below_the_file_or_of_its_split(tmp_path):
    for split, seed in dict(train=0, val=50).items():
        for layout, folder in dict(below=f'{split}/data', named=f'photos/{split}').items():
            (tmp_path / layout / folder).mkdir(parents=True)
            for number in range(3):
                picture(tmp_path / layout / folder / f'{number}.png', seed + number)
            (tmp_path / layout / 'annotations').mkdir(exist_ok=True)
            names = [f'{number}.png' for number in range(3)]
            coco(tmp_path / layout, names)
            file = dict(below=f'{split}/labels.json', named=f'annotations/{split}_boxes.json')
            (tmp_path / layout / 'all.json').rename(tmp_path / layout / file[layout])
    for layout, folder in dict(below='{}/data', named='photos/{}').items():
        sets = read(tmp_path / layout)
        for split in ('train', 'val'):
            names = [image['file_name'] for image in sets.splits[split]['images']]
            assert names == [f'{folder.format(split)}/{number}.png' for number in range(3)]


@pytest.mark.parametrize('ending', ['.jfif', '.ppm', '.gif', '.weird'])
def test_voc_images_may_have_any_ending_that_opencv_reads(ending, tmp_path):
    voc_in_folders(tmp_path, ending)  # OpenCV and Pillow look at the content, not at the ending
    assert left_edges(read(tmp_path)) == {f'{number}{ending}': number for number in range(6)}
    for number in range(6):
        (tmp_path / f'{number}{ending}').write_text('no image')
    with pytest.raises(InputError, match=rf'the 6 images cannot .*/0\{ending} \(unreadable: '):
        read(tmp_path)


@pytest.mark.parametrize(('first', 'last'), [(1, 2), (1, 3), (0, 2)])
def test_class_numbers_from_1_are_named_in_the_error_and_in_a_note(first, last, tmp_path):
    yolo(tmp_path)
    for number, class_number in enumerate((first, last)):
        (tmp_path / f'{number}.txt').write_text(f'{class_number} 0.5 0.5 0.5 0.5\n')
    for number in range(2, 6):
        (tmp_path / f'{number}.txt').write_text('1 0.5 0.5 0.5 0.5\n')
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    hint = 'add the missing names, or number the classes from 0 if the labels count them from 1'
    has_hint = str(caught.value).endswith(hint)
    assert has_hint == (first == 1)
    names = ['cat', 'dog', 'bird', 'fish'][: last + 1]
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    note = f'no object has class 0 (cat), but some have class {last} ({names[-1]}): if the labels'
    assert any(line.startswith(note) for line in read(tmp_path).notes) == (first == 1)


def test_yolo_boxes_of_turned_images_are_those_of_the_picture_as_shown(tmp_path):
    yolo(tmp_path)
    for number, ending in enumerate(('.jpg', '.tif', '.webp')):
        (tmp_path / f'{number}.png').unlink()
        Image.new('RGB', (60, 40), (number, 9, 9)).save(
            tmp_path / f'{number}{ending}', exif=sideways()
        )
    sets = read(tmp_path)
    sizes = {
        image['file_name']: (image['width'], image['height'])
        for raw in sets.splits.values()
        for image in raw['images']
    }
    assert sizes['0.jpg'] == sizes['1.tif'] == (40, 60) and '2.webp' not in sizes
    webp = '2.webp is 60 x 40 in OpenCV, which ignores its EXIF orientation, and displayed as 40 x'
    assert any(note.startswith('size differs: 1, ') and webp in note for note in sets.notes)


def test_error_on_unusable_labels_counts_boxes_and_names_only_splits_of_the_user(tmp_path):
    for split, count in (('train', 6), ('val', 4)):
        (tmp_path / split).mkdir()
        for number in range(count):
            picture(tmp_path / split / f'{split}{number}.png', number + 10 * (split == 'val'))
            (tmp_path / split / f'{split}{number}.txt').write_text(LABEL)
    (tmp_path / 'classes.txt').write_text('cat\n')
    for number in range(4):
        (tmp_path / f'val/val{number}.txt').write_text('0 24 20 9 9\n')
    with pytest.raises(InputError, match=r'/val: no box of the 4 images of val can be used, for'):
        read(tmp_path)
    (tmp_path / 'val/val0.txt').write_text(LABEL)
    with pytest.raises(InputError, match=r'/val: 3 of 4 objects of val cannot be used, for'):
        read(tmp_path)
    shutil.rmtree(tmp_path / 'train')
    with pytest.raises(InputError, match=r'/val: 3 of 4 objects cannot be used, for'):
        read(tmp_path)


OTHER_FORMATS = {
    'a.json': ('{"shapes": [], "imagePath": "a.png"}', "a.json is LabelMe's JSON"),
    'b.json': (
        '[{"image": "a.png", "annotations": [{"label": "cat", "coordinates": {}}]}]',
        "b.json is CreateML's JSON",
    ),
    'c.xml': ('<annotations><image id="0"/></annotations>', "c.xml is CVAT's XML"),
    'd.csv': ('a.png,1,1,9,9,cat\n', 'd.csv is a CSV file'),
    'a.txt': (
        '\n0,0.5,0.5,0.1,0.1\n',
        "a.txt begins with '0,0.5,0.5,0.1,0.1', but YOLO has five numbers between blanks",
    ),
}


@pytest.mark.parametrize('name', OTHER_FORMATS)
def test_annotations_in_other_formats_are_named(name, tmp_path):
    picture(tmp_path / 'a.png')
    (tmp_path / 'README.txt').write_text('Our data\n')
    text, message = OTHER_FORMATS[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert message in str(caught.value) and 'has no annotations in' in str(caught.value)
