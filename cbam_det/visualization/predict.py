"""Detect objects in images and videos; write drawings, COCO results and CSV.

Detection and drawing use mmdet's `DetInferencer`. The detections of each finished image are
saved, so that an interrupted command continues where it stopped.
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

from ..apis.inference import Predictor, PreparedImage, check_detector, read_image
from ..checkpoints.loading import weights_digest
from ..datasets.layouts.files import lines_of
from ..models.attention_modules import named_cbams
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.files import atomic_write
from ..utils.find_files import check_source
from .attention import gates
from .figures import HEAT, heat_limits
from .fonts import names_in_pictures

PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
KNOWN = [*PICTURES, *VIDEOS]
WRITABLE = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
FINISHED_FILE = 'detections.jsonl'


@dataclass
class Summary:
    """The numbers of a call of `predict`.

    Attributes:
        images: number of finished images and video frames.
        detections: number of detections in all of them.
        unreadable: number of files that could not be read.
    """

    images: int = 0
    detections: int = 0
    unreadable: int = 0


def find_inputs(source: str) -> list[Path]:
    """Find the images and videos of `source`.

    Args:
        source: an image, a video, a folder (searched recursively), a pattern with `*`, or a `.txt`
            file with one path per line, relative to that file.

    Raises:
        InputError: `source` does not exist, or has no image or video; or the `.txt` file is not
            UTF-8.
    """
    path = Path(source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob('*')) if file.suffix.lower() in KNOWN]
    elif path.suffix.lower() == '.txt' and path.is_file():
        files = [path.parent / line for line in lines_of(path)]
    elif path.is_file():
        files = [path]
        if path.suffix.lower() not in KNOWN:
            raise InputError(
                f'{path} is not an image or a video; give one of {first_few(KNOWN, 9)}'
            )
    else:
        files = [Path(name) for name in sorted(glob.glob(source, recursive=True))]
        files = [file for file in files if file.suffix.lower() in KNOWN]
        check_source(source)
    if not files:
        raise InputError(
            f'{source} has no image or video; give files that end in {first_few(KNOWN, 9)}'
        )
    return list(dict.fromkeys(files))


class _Inferencer(DetInferencer):
    """mmdet's inferencer with the model of a `Predictor`, which has checked its weights."""

    def __init__(self, predictor: Predictor) -> None:
        check_detector(predictor)
        self._model = predictor.model
        self._model.dataset_meta = dict(classes=predictor.classes, palette='random')
        super().__init__(model=predictor.cfg, show_progress=False)

    def _init_collate(self, cfg: object) -> Callable:
        return pseudo_collate

    def _init_model(self, cfg: object, weights: object, device: object = None) -> nn.Module:
        return self._model


class Run:
    """One call of `predict`: the model, and the folder with the finished results.

    Args:
        predictor: a detector with its weights.
        out: folder of the results.
        score: detections with a lower score are left out.
        attention: draw the attention map next to each image.
        batch_size: number of pictures or frames in a batch.

    Raises:
        InputError: `out` has the results of another model or of other options.
    """

    def __init__(
        self, predictor: Predictor, out: Path, score: float, attention: bool, batch_size: int
    ) -> None:
        self.predictor, self.out, self.score = predictor, out, score
        self.attention, self.batch_size = attention, batch_size
        with warnings.catch_warnings():  # mmdet warns that its visualizer has no folder
            warnings.simplefilter('ignore', UserWarning)
            self.inferencer = _Inferencer(predictor)
        out.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict] = {}
        head = dict(
            model=weights_digest(predictor.model.state_dict()), score=score, attention=attention
        )
        finished_path = out / FINISHED_FILE
        if finished_path.is_file():
            first, *lines = finished_path.read_text(encoding='utf-8').splitlines() or ['']
            if _json(first) != head:
                raise InputError(
                    f'{out} has results of another model, --score or --attention; give another '
                    'folder with --out'
                )
            entries = [entry for entry in map(_json, lines) if entry]  # without an incomplete line
            self.done = {entry['file']: entry for entry in entries}
        with atomic_write(finished_path) as part:
            lines = [json.dumps(line) + '\n' for line in (head, *self.done.values())]
            part.write_text(''.join(lines), encoding='utf-8')

    def check_source(self, name: str, file: Path) -> None:
        """Raise InputError if the finished results of this name are those of another file."""
        entry = self.done.get(name) or self.done.get(_frame_name(name, 0)) or {}
        path = str(file.absolute())
        if entry.get('source', path) != path:
            raise InputError(
                f'{self.out} has the results of {entry["source"]}, which has the same name as '
                f'{file}; give another folder with --out'
            )

    def detect(self, names: list[str], pictures: list[np.ndarray], file: Path) -> None:
        """Detect in the unfinished pictures of a file, (H, W, 3) uint8 RGB; save the results."""
        todo = [index for index, name in enumerate(names) if name not in self.done]
        if not todo:
            return
        samples = self.inferencer(
            [np.ascontiguousarray(pictures[index][..., ::-1]) for index in todo],
            batch_size=self.batch_size,
            return_datasamples=True,
            no_save_vis=True,
        )['predictions']
        with (self.out / FINISHED_FILE).open('a', encoding='utf-8') as stream:
            for index, sample in zip(todo, samples, strict=True):
                instances = sample.pred_instances.cpu()
                instances = instances[instances.scores >= self.score]
                boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
                height, width = pictures[index].shape[:2]
                entry = dict(
                    file=names[index],
                    source=str(file.absolute()),
                    width=width,
                    height=height,
                    labels=instances.labels.tolist(),
                    scores=[round(score, 5) for score in instances.scores.tolist()],
                    boxes=[[round(side, 2) for side in box] for box in boxes.tolist()],
                )
                self.done[names[index]] = entry
                stream.write(json.dumps(entry) + '\n')

    def draw(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Draw the detections, (H, W, 3) uint8 RGB; with the attention map, (H, 2 W, 3)."""
        entry = self.done[name]
        sample = DetDataSample()
        sample.pred_instances = InstanceData(
            labels=torch.tensor(entry['labels'], dtype=torch.long),
            scores=torch.tensor(entry['scores']),
            bboxes=torch.tensor(entry['boxes']).reshape(-1, 4),
        )
        visualizer = self.inferencer.visualizer
        with warnings.catch_warnings():  # boxes and labels can exceed the picture
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
            raise InputError(
                '--attention: the CBAMs of this model have no spatial gate; leave the option out'
            )
        weights = np.mean([prepared.resize_to_picture(spatial) for spatial in passes], axis=0)
        low, high = heat_limits([weights])
        heat = (weights - low) / (high - low)
        colours = (255 * matplotlib.colormaps[HEAT](heat)[..., :3]).astype(np.uint8)
        blend = cv2.addWeighted(prepared.picture, 0.5, colours, 0.5, 0)
        text = f'attention {weights.min():.2f} to {weights.max():.2f}'
        size = max(0.4, picture.shape[1] / 1200)
        position = (5, int(30 * size) + 5)
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(blend, text, position, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness)
        return blend

    def write_tables(self) -> None:
        """Write `coco.json`, `results.json` and `detections.csv` for the finished images.

        `COCO('coco.json').loadRes('results.json')` reads the first two. Category ids are the
        model's class numbers plus 1.
        """
        images, results, rows = [], [], []
        for number, entry in enumerate(self.done.values(), 1):
            size = dict(width=entry['width'], height=entry['height'])
            images.append(dict(id=number, file_name=entry['file'], **size))
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
    """Detect objects in all images and videos of `source`, and write the results to a folder.

    The folder gets the drawn images and videos (H.264, `.mp4`) in `drawn/` with their names,
    `coco.json` and `results.json` (COCO's format for results), and `detections.csv`. Finished
    images are skipped.

    Args:
        predictor: a detector with its weights.
        source: see `find_inputs`.
        out: the folder; it is made if it does not exist.
        score: detections with a lower score are left out, 0 to 1.
        attention: draw the mean of the spatial attention of all CBAMs next to each image.
        batch_size: number of pictures or frames in a batch.

    Raises:
        InputError: there are no files to read, or `out` has results of another model, of other
            options, or of another file with the same name.
    """
    folder = out.resolve()
    files = [file for file in find_inputs(source) if folder not in file.resolve().parents]
    if attention and not any(named_cbams(predictor.model)):
        raise InputError('--attention: this model has no CBAM; leave the option out')
    root = os.path.commonpath([file.absolute().parent for file in files])
    names = {file: str(file.absolute().relative_to(root)) for file in files}
    run, summary = Run(predictor, out, score, attention, batch_size), Summary()
    for file, name in names.items():
        run.check_source(name, file)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TimeRemainingColumn(),
    )
    with names_in_pictures(predictor.classes), Progress(*columns, transient=True) as progress:
        task = progress.add_task('files', total=len(files), rate='')
        for file, name in names.items():
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
                print_stderr(f'{file} cannot be read ({error}), so it is skipped')
            progress.advance(task)
    run.write_tables()
    summary.images = len(run.done)
    summary.detections = sum(len(entry['labels']) for entry in run.done.values())
    return summary


class _UnreadableError(Exception):
    """A file that cannot be decoded as an image or video."""


def _target(path: Path) -> Path:
    """The path for the drawing of a file: its own name, with an ending that can be written."""
    if path.suffix.lower() in VIDEOS:
        return path if path.suffix == '.mp4' else path.with_name(f'{path.name}.mp4')
    return path if path.suffix in WRITABLE else path.with_name(f'{path.name}.jpg')


def _frame_name(name: str, number: int) -> str:
    return f'{name}#{number:06d}'


def _predict_picture(run: Run, file: Path, name: str, target: Path) -> None:
    if name in run.done and target.is_file():
        return
    try:
        picture = read_image(file)
    except InputError as error:
        raise _UnreadableError('missing' if not file.is_file() else 'not an image') from error
    run.detect([name], [picture], file)
    with atomic_write(target) as part:
        drawn = np.ascontiguousarray(run.draw(name, picture)[..., ::-1])
        part.write_bytes(cv2.imencode(target.suffix, drawn)[1].tobytes())


def _predict_video(run: Run, file: Path, name: str, target: Path) -> Iterator[int]:
    """Detect in a video; yields the number of finished frames."""
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
                    names = [_frame_name(name, count + index) for index in range(len(batch))]
                    run.detect(names, batch, file)
                    for frame_name, picture in zip(names, batch, strict=True):
                        drawn = run.draw(frame_name, picture)
                        padding = [(0, size % 2) for size in drawn.shape[:2]]  # for H.264
                        drawn = np.pad(drawn, [*padding, (0, 0)], mode='edge')
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
