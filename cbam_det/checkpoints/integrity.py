"""Check that a file of weights is undamaged, and find the files of downloads."""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..utils.errors import InputError, first_few

# torch.hub and mmdet's publishing tool put the first digits of a file's SHA-256 into its name:
# 'resnet50-0676ba61.pth'. They have a letter from a to f, so that a date does not match.
NAMED_DIGITS = re.compile(r'-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.\w+$')

# What `zipfile` raises of a damaged archive: a name, an offset or a flag of its directory is wrong.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


class Unreadable(InputError):
    """A file is damaged: empty, truncated, or not a checkpoint.

    Attributes:
        fault: the reason, without the name of the file.
        remedy: what to do, if that depends on the place of the file; else ''.
    """

    def __init__(self, message: str, fault: str = '', remedy: str = '') -> None:
        super().__init__(message)
        self.fault = fault or message
        self.remedy = remedy


def check_file(path: Path) -> None:
    """Check a file of weights before it is read.

    Raises:
        Unreadable: it is empty, truncated or damaged, or torch did not write it.
    """
    status = path.stat()
    _check_content(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _check_content(path: Path, size: int, changed: int) -> None:
    """See `check_file`; a file is checked again only if its size or time has changed."""
    with path.open('rb') as stream:
        head = stream.read(64).lstrip().lower()
    if not head:
        raise Unreadable('it is empty')
    if head.startswith(b'<'):
        raise Unreadable('it is a web page, not weights')
    if not head.startswith((b'pk', b'\x80')):
        raise Unreadable('torch did not write it')
    if head.startswith(b'pk'):
        _check_parts(path)
    else:
        _check_named_digits(path)


def _check_parts(path: Path) -> None:
    """Compare the parts of a zip archive, the format of torch, with their checksums.

    torch does not compare them when it reads a file. A program can also write files without
    checksums (`torch.serialization.set_crc32_options`). Then none of them matches, and the file is
    accepted.
    """
    intact, damaged = 0, []
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE:
        raise Unreadable('it is truncated or damaged') from None
    with archive:
        for part in archive.infolist():
            try:
                with archive.open(part) as stream:
                    while stream.read(1 << 20):
                        pass
                intact += part.file_size > 0
            except DAMAGE:
                damaged.append(part.filename)
    if damaged and intact:
        raise Unreadable(f'it is damaged: wrong checksum of {first_few(damaged)}')


def _check_named_digits(path: Path) -> None:
    """Compare the SHA-256 of a file with the digits in its name, if any.

    This is for files in the format of torch before 1.6, which has no checksums.
    """
    if named := NAMED_DIGITS.search(path.name):
        digest = hashlib.sha256()
        with path.open('rb') as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digits = digest.hexdigest()
        if not digits.startswith(named[1]):
            raise Unreadable(
                f'it is truncated or damaged: its SHA-256 begins with {digits[: len(named[1])]}, '
                f'but its name has {named[1]}'
            )


def check_download(source: str) -> None:
    """Check the downloaded file of a URL or of a name that MMEngine knows, if there is one.

    Raises:
        Unreadable: it is damaged; the message has the command that deletes it.
    """
    file = downloaded_file(source)
    if file is not None and file.is_file():
        try:
            check_file(file)
        except Unreadable as error:
            raise damaged_download(file, error.fault) from None


def damaged_download(file: Path, fault: str) -> Unreadable:
    """The error for a damaged file in the download cache."""
    remedy = f'delete it, then it is downloaded again: {shlex.join(["rm", str(file)])}'
    return Unreadable(f'{file}: {fault}; {remedy}', f'of the downloaded {file}: {fault}', remedy)


def downloaded_file(source: str) -> Path | None:
    """The file to which torch.hub downloads a source; None if the source is not downloaded."""
    url = url_of(source)
    if url is None:
        return None
    return Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name


def url_of(source: str) -> str | None:
    """The URL of `https://...`, `torchvision://...` or another source of MMEngine, or None."""
    scheme, _, name = source.partition('://')
    tables = {
        **dict.fromkeys(('torchvision', 'modelzoo'), 'get_torchvision_models'),
        **dict.fromkeys(('open-mmlab', 'openmmlab'), 'get_external_models'),
        'mmcls': 'get_mmcls_models',
    }
    url = source if scheme in ('http', 'https') else None
    if scheme in tables:
        url = getattr(mmengine_checkpoint, tables[scheme])().get(name)
    return url if url and urlparse(url).scheme in ('http', 'https') else None
