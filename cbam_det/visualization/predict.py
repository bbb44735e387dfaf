"""Detect objects in images and videos; write drawings, COCO results and CSV.

Detection and drawing use mmdet's `DetInferencer`. The detections of each finished image are
saved, so that an interrupted command continues where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.structures import InstanceData
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..apis.inference import Predictor, PreparedImage, read_image
from ..checkpoints.loading import weights_digest
from ..models.attention_modules import named_cbams
from ..utils.errors import InputError, print_stderr
from ..utils.files import atomic_write
from .attention import gate_rows, gates, is_over_image
from .figures import HEAT, heat_limits
from .fonts import names_in_pictures
from .inferencer import Inferencer
from .predict_files import Input, read_inputs
from .predict_tables import TABLES, write_tables

if TYPE_CHECKING:
    from av import VideoFrame

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


class Run:
    """One call of `predict`: the model, and the folder with the finished results.

    Args:
        predictor: a detector with its weights.
        inputs: the images and videos of this call.
        out: folder of the results.
        score: detections with a lower score are left out.
        attention: draw the attention map next to each image.
        batch_size: number of a video's frames in a batch.

    Raises:
        InputError: `out` has the results of another model, of other options or of another file
            with the same name, or files that `predict` did not write.
    """

    def __init__(
        self,
        predictor: Predictor,
        inputs: list[Input],
        out: Path,
        score: float,
        attention: bool,
        batch_size: int,
    ) -> None:
        self.predictor, self.out, self.score = predictor, out, score
        self.attention, self.batch_size = attention, batch_size
        with warnings.catch_warnings():  # mmdet warns that its visualizer has no folder
            warnings.simplefilter('ignore', UserWarning)
            self.inferencer = Inferencer(predictor)
        out.mkdir(parents=True, exist_ok=True)
        weights = weights_digest(predictor.model.state_dict())
        head = dict(model=weights, config=_digest(predictor.cfg), score=score, attention=attention)
        self.done = self._read_finished(head)
        self._forget_changed(inputs)
        with atomic_write(out / FINISHED_FILE) as part:
            lines = [json.dumps(line) + '\n' for line in (head, *self.done.values())]
            part.write_text(''.join(lines), encoding='utf-8')

    def _read_finished(self, head: dict) -> dict[str, dict]:
        finished_path = self.out / FINISHED_FILE
        if not finished_path.is_file():
            for name in ('drawn', *TABLES):
                if (path := self.out / name).exists():
                    raise InputError(
                        f'{path} exists, but {finished_path} does not: another program wrote it; '
                        'give another folder with --out'
                    )
            return {}
        first, *lines = finished_path.read_text(encoding='utf-8').splitlines() or ['']
        if _json(first) != head:
            raise InputError(
                f'{self.out} has results of another model or config, --score or --attention; give '
                'another folder with --out'
            )
        entries = [entry for entry in map(_json, lines) if entry]  # without an incomplete line
        return {entry['file']: entry for entry in entries}

    def _forget_changed(self, inputs: list[Input]) -> None:
        """Drop the results and the drawings of files that were changed since, but not removed."""
        names = {entry['source']: name for name, entry in self.done.items()}
        for item in inputs:
            entry = self.done.get(item.name) or self.done.get(_frame_name(item.name, 0)) or {}
            path = str(item.path)
            if entry.get('source', path) != path:
                raise InputError(
                    f'{self.out} has the results of {entry["source"]}, which has the same name as '
                    f'{path}; give another folder with --out'
                )
            if path in names and not entry:
                raise InputError(
                    f'{self.out} has the results of {path} from a call with another input folder, '
                    f'as {names[path]}; give the same input, or another folder with --out'
                )
        stamps = {str(item.path): item.stamp for item in inputs if item.stamp}
        changed = {
            entry['source']
            for entry in self.done.values()
            if entry['stamp'] != stamps.get(entry['source'], entry['stamp'])
        }
        for item in inputs:
            if str(item.path) in changed:
                item.drawing.unlink(missing_ok=True)
        self.forget(changed)

    def forget(self, sources: set[str]) -> None:
        """Drop the results of files."""
        self.done = {
            name: entry for name, entry in self.done.items() if entry['source'] not in sources
        }

    def detect(self, names: list[str], pictures: list[np.ndarray], item: Input) -> None:
        """Detect in the unfinished pictures of a file, (H, W, 3) uint8 RGB; save the results."""
        todo = [index for index, name in enumerate(names) if name not in self.done]
        if not todo:
            return
        try:
            samples = self.inferencer(
                [np.ascontiguousarray(pictures[index][..., ::-1]) for index in todo],
                batch_size=self.batch_size,
                return_datasamples=True,
                no_save_vis=True,
            )['predictions']
        except cv2.error as error:  # resized, a side has no pixel
            raise _UnreadableError('too narrow for the pipeline of the config') from error
        with (self.out / FINISHED_FILE).open('a', encoding='utf-8') as stream:
            for index, sample in zip(todo, samples, strict=True):
                instances = sample.pred_instances.cpu()
                instances = instances[instances.scores >= self.score]
                boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
                height, width = pictures[index].shape[:2]
                entry = dict(
                    file=names[index],
                    source=str(item.path),
                    stamp=item.stamp,
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
        rows = gate_rows(prepared, gates(model, prepared.data))
        maps = [row.spatial for row in rows if row.over_image and row.spatial is not None]
        weights = np.mean(maps, axis=0)
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
        attention: draw the mean of the spatial attention next to each image, without that of CBAMs
            on regions.
        batch_size: number of a video's frames in a batch.

    Raises:
        InputError: there are no files to read, or `out` has results of another model, of other
            options, or of another file with the same name.
    """
    inputs = read_inputs(source, out)
    spatial_gates = [
        cbam.spatial_gate for path, cbam in named_cbams(predictor.model) if is_over_image(path)
    ]
    if attention and not any(spatial_gates):
        raise InputError(
            '--attention: this model has no CBAM with a spatial gate over the image; leave the '
            'option out'
        )
    try:
        return _predict(Run(predictor, inputs, out, score, attention, batch_size), inputs)
    except OSError as error:
        raise InputError(
            f'{out} cannot be written ({error}); give another folder with --out'
        ) from None


def _predict(run: Run, inputs: list[Input]) -> Summary:
    summary = Summary()
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TimeRemainingColumn(),
    )
    with names_in_pictures(run.predictor.classes), Progress(*columns, transient=True) as progress:
        task = progress.add_task('files', total=len(inputs), rate='')
        for item in inputs:
            item.drawing.parent.mkdir(parents=True, exist_ok=True)
            try:
                if item.is_video:
                    for count in _predict_video(run, item):
                        progress.update(task, rate=f'{item.name}: frame {count}')
                else:
                    _predict_picture(run, item)
            except _UnreadableError as error:
                summary.unreadable += 1
                run.forget({str(item.path)})  # the frames before the fault
                print_stderr(f'{item.path} cannot be read ({error}), so it is skipped')
            progress.advance(task)
    write_tables(run.out, run.done.values(), run.predictor)
    summary.images = len(run.done)
    summary.detections = sum(len(entry['labels']) for entry in run.done.values())
    return summary


class _UnreadableError(Exception):
    """A file that cannot be decoded as an image or video."""


def _frame_name(name: str, number: int) -> str:
    return f'{name}#{number:06d}'


def _predict_picture(run: Run, item: Input) -> None:
    if item.name in run.done and item.drawing.is_file():
        return
    try:
        picture = read_image(item.path)
    except InputError as error:
        raise _UnreadableError('not an image' if item.stamp else 'missing') from error
    run.detect([item.name], [picture], item)
    with atomic_write(item.drawing) as part:
        drawn = np.ascontiguousarray(run.draw(item.name, picture)[..., ::-1])
        part.write_bytes(cv2.imencode(item.drawing.suffix, drawn)[1].tobytes())


def _predict_video(run: Run, item: Input) -> Iterator[int]:
    """Detect in a video; yields the number of finished frames."""
    try:
        import av
    except ImportError as error:
        raise InputError(f'{item.path}: videos need PyAV: pip install av') from error
    if item.drawing.is_file() and _frame_name(item.name, 0) in run.done:
        return
    try:
        with av.open(str(item.path)) as reader, atomic_write(item.drawing) as part:
            if not reader.streams.video:
                raise _UnreadableError('not a video')
            stream = reader.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            with av.open(str(part), 'w', format='mp4') as writer:
                video = writer.add_stream('libx264', rate=rate)
                video.pix_fmt = 'yuv420p'
                frames = map(_upright, reader.decode(stream))
                count = 0
                while batch := list(islice(frames, run.batch_size)):
                    names = [_frame_name(item.name, count + index) for index in range(len(batch))]
                    run.detect(names, batch, item)
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
    except av.error.FFmpegError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise _UnreadableError('not a video') from error


def _upright(frame: VideoFrame) -> np.ndarray:
    """A frame as players show it, (H, W, 3) uint8 RGB: phones store portrait videos turned."""
    return np.rot90(frame.to_ndarray(format='rgb24'), frame.rotation // 90)


def _digest(cfg: Config) -> str:
    """A checksum of the parts of a config that the detections depend on, next to the weights."""
    text = json.dumps([cfg.model, get_test_pipeline_cfg(cfg)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _json(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
