"""A page in the browser: the detections of a model, or of two side by side, the weights of their
attention, and Grad-CAM of the detection that is clicked.

Nothing of a picture is kept. Its file is deleted once it is read, the page has pictures inside its
text, not in files, and the results of the models are dropped when the page is closed.
"""

from __future__ import annotations

import html
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmdet.models.detectors.base import BaseDetector
from PIL import Image

from ..apis.inference import Predictor, check_matching_classes
from ..utils.errors import InputError
from ..utils.installation import tool_command
from .cells import Result, attention_cells, detection_cells, gradcam_cells, run_model
from .gradcam import Explainer
from .inline_svg import CSS, SELECT, cells_html

try:
    import gradio as gr
except ImportError as error:
    raise InputError(
        f"the page needs another package ({error}): pip install 'gradio>=6.31,<7'"
    ) from None

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF')
ENDINGS = ['.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff']
MAX_MEGABYTES = 20
MAX_MEGAPIXELS = 50
MAX_PAGES = 8  # whose pictures are in memory


def check_upload(path: Path) -> None:
    """Check the format and the size of an uploaded image before it is decoded.

    Raises:
        InputError: it is not an image of a known format, or too large.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            megapixels = math.prod(image.size) / 1e6
    except Image.DecompressionBombError:
        megapixels = math.inf
    except (OSError, SyntaxError, ValueError):
        formats = ', '.join(FORMATS)
        raise InputError(f'{path} cannot be read as an image; give one of {formats}') from None
    if megapixels > MAX_MEGAPIXELS:
        raise InputError(f'{path} has over {MAX_MEGAPIXELS} million pixels; make it smaller')


def _message_html(text: object, role: str = 'status') -> str:
    return f'<p role="{role}">{html.escape(str(text))}</p>'


class Page:
    """What the page's controls do.

    Args:
        predictors: detectors of the same classes, with their weights.
        folder: where Gradio puts uploads; what is read there is deleted.

    Raises:
        InputError: a model is not a detector, or the classes differ.
    """

    def __init__(self, predictors: Sequence[Predictor], folder: Path) -> None:
        check_matching_classes(predictors)
        for predictor in predictors:
            if not isinstance(predictor.model, BaseDetector):
                raise InputError(
                    f'{predictor.name} is not a detector; for a classifier, use '
                    f'{tool_command("visualize", "gradcam", "IMAGE", "CONFIG", "CHECKPOINT")}'
                )
        self.explainers = [Explainer(predictor) for predictor in predictors]
        self.folder = folder
        self.results: OrderedDict[str, list[Result]] = OrderedDict()

    def show_upload(self, upload: dict, score: float, request: gr.Request) -> list:
        """An uploaded file -> all parts of the page; see `build`."""
        self.close(request)
        path = Path(upload['path']).resolve()
        if path.parent.parent != self.folder.resolve():  # a forged request
            raise gr.Error('this is not an uploaded file')
        name = upload.get('orig_name') or path.name
        try:
            check_upload(path)
            results = [run_model(explainer, path) for explainer in self.explainers]
        except InputError as error:
            text = _message_html(str(error).replace(str(path), name), 'alert')
            return [None, text, gr.Radio(visible=False), '', '', '']
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)  # gone where two pages drop the same
        self.results[request.session_hash or ''] = results
        while len(self.results) > MAX_PAGES:
            self.results.popitem(last=False)
        height, width = results[0].prepared.picture.shape[:2]
        layers = list(dict.fromkeys(layer for result in results for layer in result.gates))
        layer = layers[-1] if layers else None
        return [
            None,  # the file's component is ready for the next
            _message_html(f'{name}, {width} x {height}'),
            gr.Radio(choices=layers, value=layer, visible=bool(layers)),
            self.show_detections(score, request),
            self.show_attention(layer, request),
            _message_html('Click a detection to see which parts of the image raise its score.'),
        ]

    def show_detections(self, score: float, request: gr.Request) -> str:
        """The detections with a score of `score` or more."""
        if not (results := self._results(request)):
            return ''
        return cells_html('Detections', detection_cells(results, score), clickable=True)

    def show_attention(self, layer: str | None, request: gr.Request) -> str:
        """The weights of a CBAM."""
        if not (results := self._results(request)):
            return ''
        return cells_html(f'Attention {layer or ""}', attention_cells(results, layer))

    def show_gradcam(self, event: gr.EventData, request: gr.Request) -> str:
        """Grad-CAM of the detection that is clicked."""
        if not (results := self._results(request)):
            return ''
        try:
            return cells_html(*gradcam_cells(results, event.place, event.index))
        except InputError as error:
            return _message_html(error, 'alert')

    def close(self, request: gr.Request) -> None:
        """Drop the results of the models."""
        self.results.pop(request.session_hash or '', None)

    def _results(self, request: gr.Request) -> list[Result]:
        return self.results.get(request.session_hash or '', [])

    def build(self) -> gr.Blocks:
        """The page, with its controls connected."""
        # The models run one at a time.
        options: dict[str, Any] = dict(
            concurrency_limit=1, concurrency_id='models', api_visibility='private'
        )
        with gr.Blocks(
            title='cbam_det', analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
        ) as page:
            with gr.Row():
                with gr.Column():
                    upload = gr.File(
                        label=f'{", ".join(FORMATS)}; up to {MAX_MEGABYTES} MB',
                        file_types=ENDINGS,
                        height=140,
                    )
                    message = gr.HTML(_message_html('Drop an image to begin.'))
                with gr.Column():
                    score = gr.Slider(0, 1, value=0.3, step=0.01, label='Score threshold')
                    layer = gr.Radio(choices=[], label='Attention of', visible=False)
            with gr.Row() if len(self.explainers) == 1 else gr.Column():
                detections = gr.HTML(js_on_load=SELECT)
                attention = gr.HTML()
                gradcam = gr.HTML()
            outputs = [upload, message, layer, detections, attention, gradcam]
            upload.upload(self.show_upload, [upload, score], outputs, preprocess=False, **options)
            score.change(
                self.show_detections,
                score,
                detections,
                show_progress='hidden',
                trigger_mode='always_last',
                **options,
            )
            layer.input(self.show_attention, layer, attention, show_progress='hidden', **options)
            detections.select(self.show_gradcam, None, gradcam, **options)
            page.unload(self.close)
        return page


@contextmanager
def serving(predictors: Sequence[Predictor], host: str, port: int) -> Iterator[str]:
    """Serve the page inside, and delete what was uploaded at the end.

    Args:
        predictors: see `Page`.
        host: address to listen on.
        port: of it.

    Yields:
        The page's URL.

    Raises:
        InputError: see `Page`; or the port is taken.
    """
    with TemporaryDirectory(prefix='cbam_det_app_') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        # Gradio asks its own URL whether it is up, which a proxy could not answer.
        proxies = os.environ.get('no_proxy', os.environ.get('NO_PROXY', ''))
        os.environ['no_proxy'] = f'{host},localhost,{proxies}'
        page = Page(predictors, Path(folder)).build()
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                max_file_size=MAX_MEGABYTES * 2**20,
                prevent_thread_lock=True,
                css=CSS,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                share=False,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
                show_error=True,
                quiet=True,
            )
        except OSError:
            raise InputError(f'{host}:{port} is in use; give another --port') from None
        try:
            yield url
        finally:
            page.close(verbose=False)
