"""A damaged file in the download cache is noticed, and the command that removes it works."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from torch import nn

from cbam_det.checkpoints.files import read_checkpoint
from cbam_det.checkpoints.integrity import downloaded_file
from cbam_det.utils.errors import InputError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'my cache'))
    folder = tmp_path / 'my cache/hub/checkpoints'
    folder.mkdir(parents=True)
    return folder


def downloaded(cache: Path, legacy: bool = True, name: str | None = None) -> str:
    """A file in the cache, as torch wrote it before 1.6 or writes it now; its URL."""
    torch.manual_seed(0)
    file = cache / 'part'
    torch.save(nn.Linear(64, 64).state_dict(), file, _use_new_zipfile_serialization=not legacy)
    name = name or f'net-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.pth'
    file.rename(cache / name)
    return f'https://example.org/models/{name}'


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    'one bit': flipped,
    'cut off': lambda data: data[:-3000],
    'cut short': lambda data: data[:100],
    'empty': lambda data: b'',
    'a web page': lambda data: b'<html>404</html>',
}


@pytest.mark.parametrize('legacy', [True, False], ids=['before torch 1.6', 'of torch now'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_download_is_noticed_and_removed_by_the_printed_command(damage, legacy, cache):
    source = downloaded(cache, legacy)
    assert set(read_checkpoint(source, 'the weights', 'no remedy')) == {'weight', 'bias'}
    (file,) = cache.iterdir()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(InputError, match=r'^the weights cannot be loaded \(of the down') as caught:
        read_checkpoint(source, 'the weights', 'no remedy')
    command = re.search('delete it, then it is downloaded again: (rm .*)$', str(caught.value))[1]
    with pytest.raises(InputError, match=re.escape(command)):
        load_checkpoint(nn.Linear(64, 64), source)  # as mmdet's own API does
    assert subprocess.run(shlex.split(command), check=True) and not file.exists()


def test_download_that_comes_damaged_is_noticed_at_once(cache, monkeypatch):
    source = downloaded(cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.unlink()

    def fetch(url: str, **options: object) -> dict:
        file.write_bytes(flipped(whole))
        return torch.load(file, weights_only=True)

    monkeypatch.setattr(mmengine_checkpoint, 'load_url', fetch)
    with pytest.raises(InputError, match='its SHA-256 begins with'):
        read_checkpoint(source, 'the weights', 'no remedy')


def test_damage_without_digits_in_the_name_is_noticed_where_the_file_cannot_be_read(cache):
    source = downloaded(cache, name='net-20190131.pth')  # a date
    assert read_checkpoint(source, 'the weights', 'no remedy')
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r'net-20190131\.pth: \w+: .*; delete it, then it is'):
        read_checkpoint(source, 'the weights', 'no remedy')


def test_names_of_mmengine_have_their_files(cache):
    assert downloaded_file('torchvision://resnet50') == cache / 'resnet50-0676ba61.pth'
    assert downloaded_file('open-mmlab://resnet101_v1c') == cache / 'resnet101_v1c-e67eebb6.pth'
    assert downloaded_file('timm://mobilenetv1_100') is None
    assert downloaded_file('work_dirs/epoch_1.pth') is None
