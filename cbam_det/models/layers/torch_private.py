"""All private names of torch that the package uses, because torch has no public ones for them.

tests/models/test_torch_private.py fails where a version of torch no longer has one of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

try:
    from torch.compiler import is_compiling as is_compiling
except ImportError:  # torch < 2.3
    from torch._dynamo import is_compiling as is_compiling

BatchNormBase = nn.modules.batchnorm._BatchNorm


def is_fusing() -> bool:
    """Whether `torch.compile` traces the code, and no export."""

    def holds(name: str) -> bool:  # these functions are newer than `is_compiling`
        function = getattr(torch.compiler, name, None)
        return function is not None and function()

    return is_compiling() and holds('is_dynamo_compiling') and not holds('is_exporting')


def inside_torch_func() -> bool:
    """Whether a transform of `torch.func` (vmap, grad) is running."""
    return torch._C._are_functorch_transforms_active()


def version(tensor: Tensor) -> int:
    """How often the tensor was changed in place."""
    return tensor._version


def storage_key(storage: torch.UntypedStorage) -> int:
    """A number that identifies a storage, also on the meta device, where `data_ptr()` is 0."""
    return storage._cdata


def forward_hooks(module: nn.Module) -> dict[int, Any]:
    """The forward hooks of a module by their ids; deleting an entry removes the hook."""
    return module._forward_hooks


def output_is_replaced(module: nn.Module) -> bool:
    """Whether code outside a module's class can change its output: a global forward hook, more than
    one hook of its own, or a `forward` that was set on the object.
    """
    has_global_hooks = bool(nn.modules.module._global_forward_hooks)
    return has_global_hooks or len(forward_hooks(module)) > 1 or 'forward' in vars(module)


def names_set_by_hooks(module: nn.Module) -> set[str | None]:
    """The tensors that torch's pruning and its old weight_norm and spectral_norm compute before
    each forward pass.
    """
    return {
        getattr(hook, '_tensor_name', getattr(hook, 'name', None))
        for hook in module._forward_pre_hooks.values()
    }


def is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called."""
    return module._compiled_call_impl is not None


def drop_compiled_code(module: nn.Module) -> None:
    """Undo `module.compile()`, for this module alone."""
    module._compiled_call_impl = None


class RunUncompiled:
    """Runs a module uncompiled until `remove()`, so that hooks that are added later run too."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.compiled_call = module, module._compiled_call_impl
        module._compiled_call_impl = None

    def remove(self) -> None:
        """Use the compiled code again."""
        self.module._compiled_call_impl = self.compiled_call


def raise_recompile_limit(limit: int) -> None:
    """Let `torch.compile` compile a function for at least `limit` kinds of input."""
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    setattr(config, name, max(getattr(config, name), limit))


def copy_module_versions(source: Any, target: Any) -> None:
    """Copy the versions of the modules from one state dict to another; torch's modules upgrade old
    weights by them.
    """
    if hasattr(source, '_metadata'):
        target._metadata = source._metadata


def restart_workers(loader: torch.utils.data.DataLoader) -> None:
    """Start the persistent workers of a loader anew with the next epoch."""
    loader._iterator = None


def with_batch_sampler(
    loader: torch.utils.data.DataLoader, batch_sampler: Iterable[list[int]]
) -> torch.utils.data.DataLoader:
    """A copy of a loader with another batch sampler, which torch does not allow to be set."""
    changed = copy.copy(loader)
    changed.__dict__['batch_sampler'] = batch_sampler
    return changed
