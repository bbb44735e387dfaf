"""What a training leaves in its work_dir: pictures of its last validation, and a page of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.dataset.base_dataset import BaseDataset

from .confusion import confusion_matrix, confusion_page
from .curves import curves, read_log
from .detections import Detections, evenly_spaced, truth_and_detections
from .figures import save
from .report import Section, picture_file, score_tables, write_page

SCORE = 0.3  # of the detections that are counted and shown, mmdet's for confusion matrices


@dataclass
class Validation:
    """The last validation of a training.

    Attributes:
        epoch: when it was, such as 'epoch 12'.
        dataset: its images with their objects.
        classes: their names.
        metrics: the numbers by name.
        detections: those with a score of `SCORE` or more, by the paths of the images; of several
            processes, the first has a part of them.
    """

    epoch: str
    dataset: BaseDataset
    classes: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    detections: dict[str, Detections] = field(default_factory=dict)

    def images(self) -> Iterator[tuple[dict, Detections]]:
        """The info of each image that has an entry in `detections`, and that entry."""
        for info in map(self.dataset.get_data_info, range(len(self.dataset))):
            if info['img_path'] in self.detections:
                yield info, self.detections[info['img_path']]


def write_run_page(
    work_dir: str | Path, validation: Validation | None, count: int, hint: str
) -> tuple[Path, list[str]]:
    """Write report.html, curves.png and, of a detector, confusion_matrix.png and detections.png.

    Args:
        work_dir: of a training; the files are written into it.
        validation: its last one, None without one.
        count: images of detections.png.
        hint: a sentence for the end of the page.

    Returns:
        The path of the page, and a sentence for each picture that could not be drawn.
    """
    folder, faults = Path(work_dir).resolve(), []

    def section(title: str, draw: Callable[[], Figure]) -> Section:
        try:
            file = save(draw(), folder / f'{title.replace(" ", "_")}.png')
            return Section(title, pictures=[picture_file(file)])
        except Exception as error:  # whatever it is, it must not end a training as failed
            faults.append(f'{title} could not be drawn: {type(error).__name__}: {error}')
            return Section(title, note=faults[-1])

    sections = [section('curves', lambda: curves([read_log(folder)]))]
    if validation is not None:
        of_epoch = f'of the validation after {validation.epoch}'
        tables = score_tables({folder.name: validation.metrics})
        sections.insert(0, Section('scores', tables=tables, note=of_epoch))
        if validation.detections:
            sections += [
                section('confusion matrix', lambda: _confusion(validation)),
                section('detections', lambda: _detections(validation, count)),
            ]
    sections.append(Section('more', items=[hint]))
    return write_page(folder / 'report.html', folder.name, sections), faults


def _confusion(validation: Validation) -> Figure:
    matrix = confusion_matrix(validation.images(), len(validation.classes))
    images = f'{len(validation.detections):,} images'
    title = f'{images}, detections with a score of {SCORE:g} or more'
    return confusion_page(matrix, validation.classes, title)


def _detections(validation: Validation, count: int) -> Figure:
    shown = {*evenly_spaced(len(validation.detections), count)}
    images = (image for place, image in enumerate(validation.images()) if place in shown)
    return truth_and_detections(images, validation.classes, SCORE)
