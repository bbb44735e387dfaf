"""Fuzz the checks of data sets: random damage gives a clean result or an InputError, and mmdet can
read what the checks accept.

    python -m tests.fuzz --inputs 20000 --seed 0 --out results/fuzz.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope
from rich.progress import track

from cbam_det.datasets.validation.clean import clean
from cbam_det.datasets.validation.coco import read_coco
from cbam_det.datasets.validation.folder import examine
from cbam_det.utils.errors import InputError
from cbam_det.utils.records import write_record

from .datasets.damaged_sets import coco, voc
from .datasets.one_set import check_dataset

NUMBERS = (0, 1, 2, 3, 5, 9, 20, 30, 40, 48, 49, 60, 0.3, 20.5, -1, -3, -48, 1000)
VALUES = (
    *(None, True, 0, 1, 2, -1, 3, 0.5, 48, 10**9, 10**400, -(10**400), 1e308, float('nan')),
    *(float('inf'), '', ' ', '1', 'cat', 'one.jpg', '../x', 'a\0b', '\ud800', 'a\nb', 'é'),
    *([], [1], [1, 2, 3, 4], [0, 0, 0, 0], {}, {'id': 1}),
)
TIMES = (1, 1, 1, 2, 3)  # mutations of an input
WORDS = (
    *(
        b'',
        b'<',
        b'>',
        b'/',
        b'&',
        b'"',
        b'[',
        b'{',
        b'}',
        b',',
        b'0',
        b'-',
        b'nan',
        b'inf',
        b'1e999',
    ),
    *(b'\0', b'\xff', b'\xef\xbb\xbf', b'\n', b'\r\n', b' ', b'&amp;', b'<!--', b'null', b'9' * 40),
    *(b'<object/>', b'<size/>', b'<bndbox/>', b'<name/>', '٣'.encode(), b'1_0', b'.5', b'true'),
)


def mutate_value(content: object, rng: random.Random) -> object:
    """A copy of a JSON's content with one node replaced, deleted, repeated or swapped."""
    content = copy.deepcopy(content)
    nodes = [
        (node, key)
        for node in _walk(content)
        for key in (node if isinstance(node, dict) else range(len(node)))
    ]
    if not nodes:
        return content
    node, key = rng.choice(nodes)
    action = rng.choice(('replace', 'replace', 'replace', 'delete', 'repeat', 'swap'))
    if action == 'delete':
        del node[key]
    elif action == 'repeat' and isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    elif action == 'swap':
        other_node, other_key = rng.choice(nodes)
        node[key] = copy.deepcopy(other_node[other_key])
    elif isinstance(node[key], (int, float)) and rng.random() < 0.7:
        node[key] = rng.choice(NUMBERS)
    else:
        node[key] = copy.deepcopy(rng.choice(VALUES))
    return content


def _walk(node: object) -> list:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node] if isinstance(node, (dict, list)) else []
    return own + [descendant for child in children for descendant in _walk(child)]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """`data` with a number changed, a part replaced or repeated, a bit flipped, or truncated."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((0, 1, 2, 5, 20)))
    action = rng.choice(('word', 'repeat', 'flip', 'cut', 'number', 'number', 'number', 'number'))
    numbers = list(re.finditer(rb'-?\d+', data))
    if action == 'number' and numbers and b'\xff' not in data[:1]:  # not in a JPEG
        at, end = rng.choice(numbers).span()
        return data[:at] + str(rng.choice(NUMBERS)).encode() + data[end:]
    if action == 'word':
        return data[:at] + rng.choice(WORDS) + data[end:]
    if action == 'repeat':
        return data[:end] + data[at:]
    if action in ('flip', 'number') and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return data[:at]


class Subject:
    """A small data set with one file that is damaged, and restored after each input.

    Args:
        root: folder to make.
        layout: `coco` or `voc` of `damaged_sets`.
        file: the file to damage, relative to the root.
    """

    def __init__(self, root: Path, layout: object, file: str) -> None:
        root.mkdir(parents=True)
        self.dataset = layout(root)
        self.path = root / file
        self.root, self.original = root, self.path.read_bytes()

    def run(self, data: bytes) -> str:
        """Check the data set with `data` in the file; returns 'clean', 'counted' or 'refused'.

        Raises:
            Exception: the check fails in another way, or mmdet cannot read accepted data.
        """
        self.path.write_bytes(data)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # output of pycocotools and rich
                return self._outcome()
        finally:
            for file in self.root.rglob('*_clean*'):
                if file.is_file():
                    file.unlink()
            self.path.write_bytes(self.original)

    def _outcome(self) -> str:
        picture = self.path.suffix == '.jpg'
        try:
            with DefaultScope.overwrite_default_scope('mmdet'):
                summary = check_dataset(self.dataset, full=picture)
        except InputError as error:
            assert '\n' not in str(error)
            self._check_repair()
            return 'refused'
        with DefaultScope.overwrite_default_scope('mmdet'):
            read = DATASETS.build(dict(copy.deepcopy(self.dataset), serialize_data=False))
        assert len(read)
        for item in range(len(read) if picture else 0):
            info = read.get_data_info(item)
            pixels = cv2.imread(info['img_path'])
            assert pixels is not None and pixels.shape[:2] == (info['height'], info['width'])
        return 'counted' if summary.notes else 'clean'

    def _check_repair(self) -> None:
        """Assert that the cleaned annotations have no more harmful faults."""
        try:
            (split,) = examine(self.root, self.root / 'train', progress=False)
            files = clean(split).files
        except InputError:
            return
        for path, data in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        for path in [path for path in files if path.suffix == '.json']:
            cleaned = read_coco(path, self.root / 'train')
            assert [fault for fault in cleaned.faults if fault.harmful] == []


def subjects(root: Path) -> dict[str, Subject]:
    """The data sets that are damaged, by name."""
    return {
        'COCO, a value': Subject(root / 'coco_value', coco, 'train.json'),
        'COCO, bytes': Subject(root / 'coco_bytes', coco, 'train.json'),
        'COCO, an image': Subject(root / 'coco_image', coco, 'train/one.jpg'),
        'VOC, an XML': Subject(root / 'voc_xml', voc, 'Annotations/one.xml'),
        'VOC, the list': Subject(root / 'voc_list', voc, 'train.txt'),
    }


def damaged(name: str, subject: Subject, rng: random.Random) -> bytes:
    """The file of a subject after one to three mutations."""
    data = subject.original
    if name.endswith('value'):
        content = json.loads(data)
        for _ in range(rng.choice(TIMES)):
            content = mutate_value(content, rng)
        return json.dumps(content).encode()
    for _ in range(rng.choice(TIMES)):
        data = mutate_bytes(data, rng)
    return data


def fuzz(inputs: int, seed: int) -> dict:
    """Damage data sets `inputs` times; returns outcomes by data set, and the first failures."""
    rng = random.Random(seed)
    outcomes: dict[str, Counter] = {}
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        all_subjects = subjects(Path(folder))
        for number in track(range(inputs), 'damaged inputs', transient=True):
            name = list(all_subjects)[number % len(all_subjects)]
            data = damaged(name, all_subjects[name], rng)
            try:
                outcome = all_subjects[name].run(data)
            except Exception as error:
                outcome = 'failed'
                failures.append(dict(input=number, error=f'{type(error).__name__}: {error}'[:300]))
                if len(failures) <= 10:
                    print(number, name, failures[-1]['error'], data[:3000], sep='\n  ')
            outcomes.setdefault(name, Counter())[outcome] += 1
    return dict(inputs=inputs, seed=seed, outcomes=outcomes, failures=failures[:20])


def command_line(
    name: str, text: str, inputs: int, run: Callable[[argparse.Namespace], dict]
) -> int:
    """Parse the options of a fuzzer, run it, write its record and print the outcomes.

    Args:
        name: name of the module, for the command in the record.
        text: description for the help.
        inputs: default number of inputs.
        run: function from the options to the record.

    Returns:
        The exit status, 1 if there are failures.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--inputs', type=int, default=inputs, help='number of inputs (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file for the record')
    args = parser.parse_args()
    record = run(args)
    command = f'python -m {name} --inputs {args.inputs} --seed {args.seed}'
    write_record(args.out, command, record)
    for part, counts in record['outcomes'].items():
        print(f'{part}: {dict(counts)}')
    return int(bool(record['failures']))


def main() -> int:
    return command_line('tests.fuzz', __doc__, 20_000, lambda args: fuzz(args.inputs, args.seed))


if __name__ == '__main__':
    sys.exit(main())
