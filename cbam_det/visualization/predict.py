"""Detections of pictures and videos: drawn, and listed as COCO results and CSV.

Detection and drawing are mmdet's `DetInferencer`. What is done is noted picture by picture, so that
an interrupted command continues where it stopped.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ..apis.inference import Predictor, PreparedImage, read_image
from ..checkpoints.loading import weights_digest
from ..models.layers import CBAM
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.files import atomic_write
from .attention import gates
from .figures import HEAT
from .fonts import names_in_pictures

PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
KNOWN = [*PICTURES, *VIDEOS]
WRITABLE = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
DONE = 'detections.jsonl'


@dataclass
class Summary:
    """What `predict` did.

    Attributes:
        images: pictures, or frames of videos, with detections written.
        detections: of all of them, with the least score or more.
        unreadable: files that could not be read; they are named on stderr.
    """

    images: int = 0
    detections: int = 0
    unreadable: int = 0


def find_files(source: str) -> list[Path]:
    """The pictures and videos that `source` names.

    Args:
        source: a picture, a video, a folder (with the folders in it), a pattern with `*`, or a
            `.txt` file with one path a line, relative to that file.

    Raises:
        InputError: it is missing, or names no picture or video.
    """
    path = Path(source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob('*')) if file.suffix.lower() in KNOWN]
    elif path.suffix.lower() == '.txt' and path.is_file():
        lines = path.read_text(encoding='utf-8').splitlines()
        files = [path.parent / line.strip() for line in lines if line.strip()]
    elif path.is_file():
        files = [path]
        if path.suffix.lower() not in KNOWN:
            raise InputError(
                f'{path} is not a picture or a video; give one of {first_few(KNOWN, 9)}'
            )
    else:
        files = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
        files = [file for file in files if file.suffix.lower() in KNOWN]
        if not files and not glob.has_magic(source):
            raise InputError(f'{source} is not there; give a picture, a video or a folder')
    if not files:
        raise InputError(f'{source} names no picture and no video ({first_few(KNOWN, 9)})')
    return list(dict.fromkeys(files))


class _Inferencer(DetInferencer):
    """mmdet's inferencer over a model whose weights `Predictor` has checked."""

    def __init__(self, predictor: Predictor) -> None:
        self._model = predictor.model
        self._model.dataset_meta = dict(classes=predictor.classes, palette='random')
        super().__init__(model=predictor.cfg, show_progress=False)

    def _init_collate(self, cfg: object) -> Callable:
        return pseudo_collate

    def _init_model(self, cfg: object, weights: object, device: object = None) -> nn.Module:
        return self._model


class Run:
    """One call of `predict`: the model, and the folder with what is done.

    Args:
        predictor: a detector with its weights.
        out: folder of the results.
        score: detections below it are left out.
        attention: put the attention map beside each picture.
        batch_size: pictures or frames that the model sees at once.

    Raises:
        InputError: `out` holds the results of another model or score.
    """

    def __init__(
        self, predictor: Predictor, out: Path, score: float, attention: bool, batch_size: int
    ) -> None:
        self.predictor, self.out, self.score = predictor, out, score
        self.attention, self.batch_size = attention, batch_size
        with warnings.catch_warnings():  # the visualizer has no folder of its own
            warnings.simplefilter('ignore', UserWarning)
            self.inferencer = _Inferencer(predictor)
        out.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict] = {}
        head = dict(
            model=weights_digest(predictor.model.state_dict()), score=score, attention=attention
        )
        notes = out / DONE
        if notes.is_file():
            first, *lines = notes.read_text(encoding='utf-8').splitlines() or ['']
            if _json(first) != head:
                raise InputError(
                    f'{out} holds the detections of another model, --score or --attention; give '
                    'another --out'
                )
            entries = [entry for entry in map(_json, lines) if entry]  # a cut-off line is left out
            self.done = {entry['file']: entry for entry in entries}
        with atomic_write(notes) as part:
            lines = [json.dumps(line) + '\n' for line in (head, *self.done.values())]
            part.write_text(''.join(lines), encoding='utf-8')

    def detect(self, names: list[str], pictures: list[np.ndarray]) -> None:
        """Detect in RGB pictures, (H, W, 3) uint8, that are not done yet, and note it."""
        todo = [place for place, name in enumerate(names) if name not in self.done]
        if not todo:
            return
        found = self.inferencer(
            [np.ascontiguousarray(pictures[place][..., ::-1]) for place in todo],
            batch_size=self.batch_size,
            return_datasamples=True,
            no_save_vis=True,
        )['predictions']
        with (self.out / DONE).open('a', encoding='utf-8') as notes:
            for place, sample in zip(todo, found, strict=True):
                instances = sample.pred_instances.cpu()
                instances = instances[instances.scores >= self.score]
                boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
                height, width = pictures[place].shape[:2]
                entry = dict(
                    file=names[place],
                    width=width,
                    height=height,
                    labels=instances.labels.tolist(),
                    scores=[round(score, 5) for score in instances.scores.tolist()],
                    boxes=[[round(side, 2) for side in box] for box in boxes.tolist()],
                )
                self.done[names[place]] = entry
                notes.write(json.dumps(entry) + '\n')

    def draw(self, name: str, picture: np.ndarray) -> np.ndarray:
        """The picture with its detections, (H, W, 3) uint8 RGB; with the attention map twice as
        wide.
        """
        entry = self.done[name]
        sample = DetDataSample()
        sample.pred_instances = InstanceData(
            labels=torch.tensor(entry['labels'], dtype=torch.long),
            scores=torch.tensor(entry['scores']),
            bboxes=torch.tensor(entry['boxes']).reshape(-1, 4),
        )
        visualizer = self.inferencer.visualizer
        with warnings.catch_warnings():  # of boxes and texts that reach beyond the picture
            warnings.simplefilter('ignore', UserWarning)
            visualizer.add_datasample(name, picture, sample, draw_gt=False, pred_score_thr=0)
        drawn = visualizer.get_image()
        if not self.attention:
            return drawn
        return np.hstack([drawn, self._attention(picture)])

    def _attention(self, picture: np.ndarray) -> np.ndarray:
        packed = self.inferencer.pipeline(np.ascontiguousarray(picture[..., ::-1]))
        model = self.predictor.model
        prepared = PreparedImage.from_packed(picture, packed, model)
        passes = [
            gate.spatial[0] for gate in gates(model, prepared.data) if gate.spatial is not None
        ]
        if not passes:
            raise InputError('--attention: the attention of this model has no spatial gate')
        weights = np.mean([prepared.resize_to_picture(spatial) for spatial in passes], axis=0)
        low, high = float(weights.min()), float(weights.max())
        heat = (weights - low) / (high - low or 1)
        colours = (255 * matplotlib.colormaps[HEAT](heat)[..., :3]).astype(np.uint8)
        blend = cv2.addWeighted(prepared.picture, 0.5, colours, 0.5, 0)
        text = f'attention {low:.2f} to {high:.2f}'
        size = max(0.4, picture.shape[1] / 1200)
        place = (5, int(30 * size) + 5)
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(blend, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness)
        return blend

    def write_tables(self) -> None:
        """`coco.json`, `results.json` and `detections.csv` from what is done.

        `COCO('coco.json').loadRes('results.json')` reads the first two; category ids count the
        model's classes from 1.
        """
        images, results, rows = [], [], []
        for number, entry in enumerate(self.done.values(), 1):
            images.append(
                dict(
                    id=number, file_name=entry['file'], **{k: entry[k] for k in ('width', 'height')}
                )
            )
            for label, score, box in zip(
                entry['labels'], entry['scores'], entry['boxes'], strict=True
            ):
                x1, y1, x2, y2 = box
                sides = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
                results.append(
                    dict(image_id=number, category_id=label + 1, bbox=sides, score=score)
                )
                rows.append([entry['file'], self.predictor.name_of(label), score, x1, y1, x2, y2])
        categories = [dict(id=k, name=name) for k, name in enumerate(self.predictor.classes, 1)]
        coco = dict(images=images, annotations=[], categories=categories)
        for name, content in (('coco.json', coco), ('results.json', results)):
            with atomic_write(self.out / name) as part:
                part.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
        with (
            atomic_write(self.out / 'detections.csv') as part,
            part.open('w', encoding='utf-8', newline='') as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(['file', 'class', 'score', 'x1', 'y1', 'x2', 'y2'])
            writer.writerows(rows)


def predict(
    predictor: Predictor,
    source: str,
    out: Path,
    score: float = 0.3,
    attention: bool = False,
    batch_size: int = 1,
) -> Summary:
    """Detect in everything that `source` names, and write the results to a folder.

    It writes the drawn pictures and videos (H.264, `.mp4`) to `drawn/` under their own names,
    `coco.json` and `results.json` (COCO's format for results), and `detections.csv`. Pictures that
    are done already are skipped.

    Args:
        predictor: a detector with its weights.
        source: see `find_files`.
        out: the folder, made where it is missing.
        score: detections below it are left out, 0 to 1.
        attention: put the mean of the spatial attention of all CBAMs beside each picture.
        batch_size: pictures or frames that the model sees at once.

    Raises:
        InputError: there is nothing to read, or `out` holds the results of another model.
    """
    folder = out.resolve()
    files = [file for file in find_files(source) if folder not in file.resolve().parents]
    if attention and not any(isinstance(module, CBAM) for module in predictor.model.modules()):
        raise InputError('--attention: this model has no CBAM; leave the option out')
    root = os.path.commonpath([file.absolute().parent for file in files])
    run, summary = Run(predictor, out, score, attention, batch_size), Summary()
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TimeRemainingColumn(),
    )
    with names_in_pictures(predictor.classes), Progress(*columns, transient=True) as progress:
        task = progress.add_task('files', total=len(files), rate='')
        for file in files:
            name = str(file.absolute().relative_to(root))
            target = _target(out / 'drawn' / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if file.suffix.lower() in VIDEOS:
                    for count in _predict_video(run, file, name, target):
                        progress.update(task, rate=f'{name}: frame {count}')
                else:
                    _predict_picture(run, file, name, target)
            except _UnreadableError as error:
                summary.unreadable += 1
                print_stderr(f'{file} cannot be read ({error}); left out')
            progress.advance(task)
    run.write_tables()
    summary.images = len(run.done)
    summary.detections = sum(len(entry['labels']) for entry in run.done.values())
    return summary


class _UnreadableError(Exception):
    """A file that is no picture or video that can be decoded."""


def _target(path: Path) -> Path:
    """Where the drawn form of a file goes: its own name, with an ending that can be written."""
    if path.suffix.lower() in VIDEOS:
        return path if path.suffix == '.mp4' else path.with_name(f'{path.name}.mp4')
    return path if path.suffix in WRITABLE else path.with_name(f'{path.name}.jpg')


def _predict_picture(run: Run, file: Path, name: str, target: Path) -> None:
    if name in run.done and target.is_file():
        return
    try:
        picture = read_image(file)
    except InputError as error:
        raise _UnreadableError('missing' if not file.is_file() else 'not an image') from error
    run.detect([name], [picture])
    with atomic_write(target) as part:
        drawn = np.ascontiguousarray(run.draw(name, picture)[..., ::-1])
        part.write_bytes(cv2.imencode(target.suffix, drawn)[1].tobytes())


def _predict_video(run: Run, file: Path, name: str, target: Path) -> Iterator[int]:
    """Yields the number of frames done."""
    try:
        import av
    except ImportError as error:
        raise InputError(f'{file}: videos need PyAV: pip install av') from error
    if target.is_file():
        return
    try:
        with av.open(str(file)) as reader, atomic_write(target) as part:
            stream = reader.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            with av.open(str(part), 'w', format='mp4') as writer:
                video = writer.add_stream('libx264', rate=rate)
                video.pix_fmt = 'yuv420p'
                frames = (frame.to_ndarray(format='rgb24') for frame in reader.decode(stream))
                count = 0
                while batch := list(islice(frames, run.batch_size)):
                    names = [f'{name}#{count + place:06d}' for place in range(len(batch))]
                    run.detect(names, batch)
                    for frame_name, picture in zip(names, batch, strict=True):
                        drawn = run.draw(frame_name, picture)
                        sides = [(0, side % 2) for side in drawn.shape[:2]]  # H.264 wants even ones
                        drawn = np.pad(drawn, [*sides, (0, 0)], mode='edge')
                        if not video.codec_context.is_open:
                            video.height, video.width = drawn.shape[:2]
                        frame = av.VideoFrame.from_ndarray(drawn, format='rgb24')
                        writer.mux(video.encode(frame))
                    count += len(batch)
                    yield count
                writer.mux(video.encode())
    except (av.error.FFmpegError, IndexError) as error:
        raise _UnreadableError('not a video') from error


def _json(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
