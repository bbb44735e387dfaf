"""Installs cbam_det; configs, tools and ledger travel inside the package, beside its modules.

torch, mmengine, mmcv and mmdet are not requirements here on purpose: two stacks provide the same
imports (mmdet, or the maintained onedl-mmdetection), and pip must not replace the one in use.
`requirements/` pins a tested stack, and `import cbam_det` explains what is missing.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r"__version__ = '(.+)'", (HERE / 'cbam_det/version.py').read_text(encoding='utf-8')
).group(1)

setup(
    name='cbam_det',
    version=VERSION,
    description='CBAM attention for object detection with MMDetection 3.x',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.10',
    packages=[
        *find_packages(include=['cbam_det', 'cbam_det.*']),
        'cbam_det.configs',
        'cbam_det.ledger',
        'cbam_det.tools',
    ],
    package_dir={
        'cbam_det.configs': 'configs',
        'cbam_det.ledger': 'experiments',
        'cbam_det.tools': 'tools',
    },
    package_data={
        'cbam_det.configs': ['**/*.py'],
        'cbam_det.ledger': ['*.yaml'],
        'cbam_det.tools': ['*.sh'],
        'cbam_det.visualization': ['*.html'],
    },
    extras_require={'gradcam': ['grad-cam']},  # it brings a cv2, which may be there by another name
    install_requires=[
        'jinja2',
        'matplotlib',
        'numpy',
        'packaging',
        'pillow',
        'pycocotools',
        'pyyaml',
        'rich',
        'scikit-learn',
        'scipy',
    ],
)
