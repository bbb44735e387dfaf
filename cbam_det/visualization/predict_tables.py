"""The detections of `predict` as COCO results and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from ..apis.inference import Predictor
from ..utils.files import atomic_write

TABLES = ('coco.json', 'results.json', 'detections.csv')
ESCAPED = 'backslashreplace'  # file names that are not UTF-8; in JSON this is an escape too


def write_tables(out: Path, entries: Iterable[dict], predictor: Predictor) -> None:
    """Write `coco.json`, `results.json` and `detections.csv` for the finished images.

    `COCO('coco.json').loadRes('results.json')` reads the first two. Category ids are the
    model's class numbers plus 1.

    Args:
        out: folder of the files.
        entries: the finished images, as `predict` saves them.
        predictor: the detector.
    """
    images, results, rows = [], [], []
    for number, entry in enumerate(entries, 1):
        size = dict(width=entry['width'], height=entry['height'])
        images.append(dict(id=number, file_name=entry['file'], **size))
        for label, score, box in zip(entry['labels'], entry['scores'], entry['boxes'], strict=True):
            x1, y1, x2, y2 = box
            sides = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            results.append(dict(image_id=number, category_id=label + 1, bbox=sides, score=score))
            rows.append([entry['file'], predictor.name_of(label), score, x1, y1, x2, y2])
    categories = [dict(id=k, name=name) for k, name in enumerate(predictor.classes, 1)]
    coco = dict(images=images, annotations=[], categories=categories)
    for name, content in (('coco.json', coco), ('results.json', results)):
        with atomic_write(out / name) as part:
            text = json.dumps(content, ensure_ascii=False)
            part.write_text(text, encoding='utf-8', errors=ESCAPED)
    with (
        atomic_write(out / 'detections.csv') as part,
        part.open('w', encoding='utf-8', errors=ESCAPED, newline='') as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(['file', 'class', 'score', 'x1', 'y1', 'x2', 'y2'])
        writer.writerows(rows)
