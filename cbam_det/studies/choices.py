"""The settings of a study of one's own data, chosen for the data and the machine, with reasons.

The rules are rules of thumb. The numbers behind them: RetinaNet over MobileNetV2 reaches AP 0.37 to
0.39 on BCCD after 208 steps of 8 images at 320x240, 1.2 s each on two CPU cores; mmdet's schedules
are for 16 images per step and 12 epochs of COCO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles

import torch

from ..utils.errors import InputError


@dataclass(frozen=True)
class Machine:
    """How detectors for a CPU or a GPU are trained.

    Attributes:
        optimizer: 'AdamW' or 'SGD'.
        lr_batch: the batch size that the detectors' learning rates are for.
        side: the lowest and the highest limit of the images' longer side, in pixels.
        ratio: the limit of the shorter side divided by that of the longer one.
        steps: the lowest and the highest number of training steps.
        epochs: the number of epochs, if their steps are between these.
    """

    optimizer: str
    lr_batch: int
    side: tuple[int, int]
    ratio: float
    steps: tuple[int, int]
    epochs: int


CPU = Machine('AdamW', 8, (320, 640), 1.0, (600, 5000), 8)
GPU = Machine('SGD', 16, (1333, 2000), 0.6, (3000, 90000), 12)


@dataclass(frozen=True)
class Detector:
    """A detector that `init` writes.

    Attributes:
        title: for headings.
        base: the config of mmdet that it is based on.
        fragment: the shipped file of its model, '' where the base is the model.
        backbone: the class that gets the attention.
        stride: of the anchors on its finest map, in pixels.
        machine: what it is for.
        lr: learning rate for `machine.lr_batch` images per step.
    """

    title: str
    base: str
    fragment: str
    backbone: str
    stride: int
    machine: Machine
    lr: float

    @property
    def two_stage(self) -> bool:
        """Its anchors are the RPN's."""
        return self.base == FASTER_RCNN


RETINANET = 'mmdet::_base_/models/retinanet_r50_fpn.py'
FASTER_RCNN = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
DETECTORS = dict(
    retinanet_mobilenetv2=Detector(
        'RetinaNet, MobileNetV2', RETINANET, 'retinanet_mobilenetv2', 'MobileNetV2', 8, CPU, 5e-4
    ),
    faster_rcnn_r18=Detector(
        'Faster R-CNN, ResNet-18', FASTER_RCNN, 'faster_rcnn_r18_small', 'ResNet', 8, CPU, 5e-4
    ),
    faster_rcnn_r50=Detector('Faster R-CNN, ResNet-50', FASTER_RCNN, '', 'ResNet', 4, GPU, 0.02),
    retinanet_r50=Detector('RetinaNet, ResNet-50', RETINANET, '', 'ResNet', 8, GPU, 0.01),
)
SMALLEST_OBJECT = 16  # pixels; a tenth of the objects may have shorter sides
ANCHOR = 32  # pixels, mmdet's smallest; it matches objects from 23 pixels on (IoU 0.5)
MOST_EPOCHS = 100
IMAGE_MEMORY = 2.0  # GiB that an image of 1333x800 takes in training, ResNet-50


@dataclass(frozen=True)
class Facts:
    """What the choices depend on.

    Attributes:
        images: number of training images that have objects other than crowds.
        sides: of these objects, square roots of their areas in pixels.
        image_sizes: two sides of each training image in pixels, in any order.
        gpu_memory: of the first GPU in GiB; None without one.
    """

    images: int
    sides: list[float]
    image_sizes: list[tuple[float, float]]
    gpu_memory: float | None

    def image_side(self, ratio: float) -> float:
        """The longer side that decides how mmdet's Resize scales the images, as their median.

        Resize keeps to both limits. If that of the shorter side is `ratio` times the other one, it
        scales an image by the limit of the longer side divided by the larger of: the longer side,
        and the shorter one divided by `ratio`.
        """
        return median(max(max(sides), min(sides) / ratio) for sides in self.image_sizes)

    @property
    def object_side(self) -> float:
        """The 10% quantile of the objects' sides, at least 1."""
        tenth = (
            quantiles(self.sides, n=10, method='inclusive')[0]
            if len(self.sides) > 1
            else self.sides[0]
        )
        return max(tenth, 1.0)

    @classmethod
    def of(cls, train: Mapping) -> Facts:
        """Those of a COCO dictionary and of this machine.

        Raises:
            InputError: all its objects are crowds, from which mmdet learns nothing.
        """
        objects = [item for item in train['annotations'] if not item['iscrowd']]
        if not objects:
            raise InputError(
                'all objects of the training images are crowd or difficult; annotate others, or '
                'give another --seed for the split'
            )
        memory = None
        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return cls(
            images=len({item['image_id'] for item in objects}),
            sides=[math.sqrt(item['bbox'][2] * item['bbox'][3]) for item in objects],
            image_sizes=[(image['width'], image['height']) for image in train['images']],
            gpu_memory=memory,
        )


@dataclass
class Choices:
    """The values of a study's configs, and the reason for each by its name.

    Attributes:
        detector: a key of `DETECTORS`.
        size: limits of the images' longer and shorter side in pixels, as mmdet's Resize has them.
        anchor: the side of the smallest anchor in pixels.
        batch_size: images per step.
        lr: learning rate.
        epochs: of the training.
    """

    detector: str
    size: tuple[int, int] = (0, 0)
    anchor: int = 0
    batch_size: int = 0
    lr: float = 0
    epochs: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


def choose(facts: Facts, given: Mapping[str, object]) -> Choices:
    """The choices for a data set.

    Args:
        facts: of it.
        given: values by the names of `Choices`, which are taken as they are; None for none.

    Raises:
        InputError: a given value is of no use.
    """
    given = {name: value for name, value in given.items() if value is not None}
    machine = CPU if facts.gpu_memory is None else GPU
    suited = next(name for name, detector in DETECTORS.items() if detector.machine is machine)
    choices = Choices(suited)
    choices.reasons['detector'] = f'this machine has {"no GPU" if machine is CPU else "a GPU"}'
    _take(choices, given, 'detector')
    if choices.detector not in DETECTORS:
        raise InputError(
            f'--detector {choices.detector} is unknown; choose from {", ".join(DETECTORS)}'
        )
    detector = DETECTORS[choices.detector]
    for name, choose_value in (
        ('size', _choose_size),
        ('anchor', _choose_anchor),
        ('batch_size', _choose_batch),
        ('lr', _choose_rate),
        ('epochs', _choose_epochs),
    ):
        choose_value(choices, facts, detector)
        _take(choices, given, name)
    return choices


def _take(choices: Choices, given: Mapping[str, object], name: str) -> None:
    if name not in given:
        return
    value = given[name]
    option = f'--{name.replace("_", "-")}'
    least = dict(size=64, anchor=8).get(name, 0)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not (least <= number < math.inf and number > 0):
            needed = f'{least} or more' if least else 'a number above 0'
            raise InputError(f'{option} {number} cannot be used; give {needed}')
    setattr(choices, name, value)
    choices.reasons[name] = f'given by {option}'


def _choose_size(choices: Choices, facts: Facts, detector: Detector) -> None:
    least, most = detector.machine.side
    image_side = facts.image_side(detector.machine.ratio)
    # As mmdet has it, but small images become twice as large at most, where that is 320 or more.
    least = min(least, max(320, 32 * round(2 * image_side / 32)))
    wanted = image_side * SMALLEST_OBJECT / facts.object_side
    side = int(min(max(32 * math.ceil(wanted / 32), least), most))
    choices.size = side, round(side * detector.machine.ratio)
    bound = {least: 'the smallest allowed size; ', most: 'the largest allowed size; '}
    choices.reasons['size'] = (
        f'{bound.get(side, "")}9 of 10 objects then have sides of {_shown(choices, facts):.0f} '
        f'pixels or more ({facts.object_side:.0f} in the files)'
    )


def _shown(choices: Choices, facts: Facts) -> float:
    """The side of the small objects in pixels at the chosen size."""
    short, long = sorted(choices.size)
    return facts.object_side * long / facts.image_side(short / long)


def _choose_anchor(choices: Choices, facts: Facts, detector: Detector) -> None:
    shown = _shown(choices, facts)
    choices.anchor = ANCHOR if shown >= ANCHOR / math.sqrt(2) else ANCHOR // 2
    choices.reasons['anchor'] = (
        f'9 of 10 objects have sides of {shown:.0f} pixels or more, and an anchor matches objects '
        'from 0.7 times its side'
    )


def _choose_batch(choices: Choices, facts: Facts, detector: Detector) -> None:
    most = detector.machine.lr_batch
    batch, reason = most, 'the batch size that the learning rate is for'
    if facts.gpu_memory is not None:
        pixels = choices.size[0] * choices.size[1] / (1333 * 800)
        fitting = max(0.8 * facts.gpu_memory / (IMAGE_MEMORY * pixels), 1)
        if fitting < most:
            batch = 2 ** int(math.log2(fitting))
            reason = f'the most that fits into {facts.gpu_memory:.0f} GiB of GPU memory'
    if 4 * batch > facts.images:
        batch = max(facts.images // 4, 1)
        steps = math.ceil(facts.images / batch)
        reason = f'only {facts.images} images have objects: {steps} steps per epoch'
    choices.batch_size, choices.reasons['batch_size'] = batch, reason


def _choose_rate(choices: Choices, facts: Facts, detector: Detector) -> None:
    share = choices.batch_size / detector.machine.lr_batch
    rate, rule = detector.lr * share, 'in proportion to'
    if detector.machine.optimizer == 'AdamW':
        rate, rule = detector.lr * math.sqrt(share), 'by the square root of'
    choices.lr = float(f'{rate:.2g}')
    reason = f'{detector.lr:g} for batches of {detector.machine.lr_batch} images'
    if share != 1:
        reason += f', scaled {rule} the batch size, as usual for {detector.machine.optimizer}'
    choices.reasons['lr'] = reason


def _choose_epochs(choices: Choices, facts: Facts, detector: Detector) -> None:
    machine = detector.machine
    least, most = machine.steps
    per_epoch = max(facts.images / choices.batch_size, 1)
    steps = machine.epochs * per_epoch
    choices.epochs = math.ceil(min(max(steps, least), most) / per_epoch)
    reason = f'{facts.images:,} images with objects, {math.ceil(per_epoch):,} steps per epoch'
    if steps < least:
        reason += f'; {machine.epochs} epochs would be less than {least:,} steps'
    elif steps > most:
        reason += f'; {machine.epochs} epochs would be more than {most:,} steps'
    if choices.epochs > MOST_EPOCHS:
        choices.epochs = MOST_EPOCHS
        reason += f'; at most {MOST_EPOCHS} epochs'
    choices.reasons['epochs'] = reason
