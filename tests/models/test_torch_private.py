"""The private names of torch still exist and do what `torch_private` needs."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.utils.data import DataLoader, Dataset

from cbam_det.models.layers import torch_private


def test_base_class_of_batch_norms_includes_mmengine_s_reverted_ones():
    reverted = revert_sync_batchnorm(nn.SyncBatchNorm(4))
    for norm in (nn.BatchNorm2d(4), nn.SyncBatchNorm(4), reverted):
        assert isinstance(norm, torch_private.BatchNormBase)
    assert not isinstance(nn.GroupNorm(1, 4), torch_private.BatchNormBase)


def test_compiling_and_transforms_are_detected():
    @torch.compile(backend='eager')
    def compiled(x: Tensor) -> Tensor:
        return x + 1 if torch_private.is_compiling() else x

    assert compiled(torch.zeros(1)).item() == 1 and not torch_private.is_compiling()
    inside = []

    def transformed(x: Tensor) -> Tensor:
        inside.append(torch_private.inside_torch_func())
        return x

    torch.func.vmap(transformed)(torch.zeros(2))
    assert inside == [True] and not torch_private.inside_torch_func()


def test_an_export_is_no_fusing_compiler():
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if torch_private.is_fusing() else x

    module, x = Fused(), torch.zeros(1)
    assert torch.compile(module, backend='eager')(x).item() == 1 and module(x).item() == 0
    assert torch.export.export(module, (x,), strict=False).module()(x).item() == 0


def test_version_counts_changes_in_place():
    x = torch.zeros(2)
    before = torch_private.version(x)
    x[0].add_(1)
    assert torch_private.version(x) == before + 1


def test_storages_of_the_meta_device_have_different_keys_and_views_the_same():
    first, second = (torch.empty(4, device='meta') for _ in range(2))
    keys = [
        torch_private.storage_key(tensor.untyped_storage())
        for tensor in (first, second, first.view(2, 2))
    ]
    assert keys[0] == keys[2] != keys[1]


def test_deleting_an_entry_removes_the_hook():
    module = nn.Identity()
    module.register_forward_hook(lambda module, args, output: output + 1)
    hooks = torch_private.forward_hooks(module)
    assert module(torch.zeros(1)).item() == 1
    hooks.clear()
    assert module(torch.zeros(1)).item() == 0


@pytest.mark.filterwarnings('ignore:.*weight_norm.*is deprecated:FutureWarning')
@pytest.mark.parametrize(
    'add_hook',
    [lambda layer: prune.l1_unstructured(layer, 'weight', 0.5), weight_norm, spectral_norm],
    ids=['prune', 'weight_norm', 'spectral_norm'],
)
def test_names_of_tensors_that_hooks_set_are_known(add_hook: Callable):
    layer = nn.Linear(4, 4)
    assert torch_private.names_set_by_hooks(layer) == set()
    add_hook(layer)
    assert torch_private.names_set_by_hooks(layer) == {'weight'}


def test_compiled_module_runs_uncompiled_in_between():
    class Compiling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if torch_private.is_compiling() else x

    module, x = Compiling(), torch.zeros(1)
    assert not torch_private.is_compiled(module)
    module.compile(backend='eager')
    assert torch_private.is_compiled(module) and module(x).item() == 1
    handle = torch_private.RunUncompiled(module)
    assert module(x).item() == 0
    handle.remove()
    assert module(x).item() == 1
    torch_private.drop_compiled_code(module)
    assert not torch_private.is_compiled(module) and module(x).item() == 0


def test_recompile_limit_is_only_raised(monkeypatch):
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    monkeypatch.setattr(config, name, 8)
    for limit, expected in ((64, 64), (16, 64)):
        torch_private.raise_recompile_limit(limit)
        assert getattr(config, name) == expected


def test_versions_of_modules_decide_how_old_weights_are_loaded():
    """Only BatchNorm's first version allows `num_batches_tracked` to be missing."""
    state = nn.BatchNorm2d(4).state_dict()
    copied = OrderedDict((key, state[key]) for key in state if key != 'num_batches_tracked')
    nn.BatchNorm2d(4).load_state_dict(copied)
    torch_private.copy_module_versions(state, copied)
    with pytest.raises(RuntimeError, match='num_batches_tracked'):
        nn.BatchNorm2d(4).load_state_dict(copied)


class WorkerIds(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def test_persistent_workers_are_restarted():
    loader = DataLoader(WorkerIds(), batch_size=2, num_workers=1, persistent_workers=True)
    first, second = (next(iter(loader))[0].item() for _ in range(2))
    torch_private.restart_workers(loader)
    assert first == second != next(iter(loader))[0].item()


def test_copy_of_a_loader_has_another_batch_sampler():
    loader = DataLoader(range(6), batch_size=2)
    changed = torch_private.with_batch_sampler(loader, [[5, 4]])
    assert [batch.tolist() for batch in changed] == [[5, 4]]
    assert len(list(loader)) == 3
    with pytest.raises(ValueError, match='batch_sampler'):  # why a private name is needed
        loader.batch_sampler = [[5, 4]]
