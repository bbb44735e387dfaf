"""Checking data sets and importing converters work without mmdet."""

from __future__ import annotations

import subprocess
import sys

from mmdet.datasets import CocoDataset, VOCDataset

from cbam_det.datasets.validation.published import COCO_CLASSES, VOC_CLASSES

from ..conftest import ROOT

BLOCKED = """
import sys, warnings
warnings.simplefilter('ignore')

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'mmdet':
            raise ModuleNotFoundError(f'No module named {name!r}', name='mmdet')

sys.meta_path.insert(0, Blocker())
"""


def test_folder_is_checked_and_a_converter_imported_without_mmdet(digits):
    script = f"""{BLOCKED}
import cbam_det.checkpoints.convert, cbam_det.checkpoints.formats, cbam_det.models.layers
from cbam_det_tools.check_data import main
sys.exit(main([{str(digits)!r}]))
"""
    process = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert '12' in process.stdout and '5' in process.stdout  # images of the two splits


def test_published_classes_are_mmdet_s():
    assert CocoDataset.METAINFO['classes'] == COCO_CLASSES
    assert VOCDataset.METAINFO['classes'] == VOC_CLASSES
