"""A pretended GPU: its tensors report ``cuda:0`` and hold CPU memory.

Everything that depends on values runs. What a GPU refuses is refused: two devices in one operation,
NumPy of a device tensor, a CPU generator for a device tensor. What makes the host wait for the
device is counted by line: values read back, sizes that depend on values, copies that are not from
pinned memory or block, and events that are waited for with no operation queued behind them.

It does not see autocast to other kernels, torch.compile, tensor cores, collectives, streams, memory
limits, or how long anything takes. Only the tests marked ``gpu`` on a real device do.

A process that registered the device must not train anything else: run it in a process of its own.
"""

from __future__ import annotations

import functools
import os
import time
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.device("cuda", 0)
_BACKEND = torch.device("privateuseone", 0)  # where torch's own bookkeeping has the tensors

# Operations whose result, or the size of it, depends on values that the host has to know.
_READS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive", "_linalg_eigh", "_linalg_svd"),
    *("linalg_pinv", "_linalg_check_errors"),
}
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
_FACTORIES = (torch.tensor, torch.as_tensor, torch.asarray)


class Waits(Counter[tuple[str, str]]):
    """How often the host waited for the device, by kind and by line of this repository."""

    def add(self, kind):
        """Count one wait of the innermost line of the repository outside this file."""
        frames = [
            frame
            for frame in traceback.extract_stack()
            if frame.filename.startswith(f"{ROOT}{os.sep}") and frame.filename != __file__
            if f"{os.sep}.venv" not in frame.filename
        ]
        last = frames[-1]
        self[kind, f"{os.path.relpath(last.filename, ROOT)}:{last.lineno}"] += 1

    def __str__(self):
        return "\n".join(f"{n} x {kind} at {line}" for (kind, line), n in self.most_common())


_counting = None
_queued = 0  # operations on the device so far


@contextmanager
def counted():
    """Count the waits within."""
    global _counting
    before, _counting = _counting, Waits()
    try:
        yield _counting
    finally:
        _counting = before


def _wait(kind):
    if _counting is not None:
        _counting.add(kind)


class DeviceTensor(Tensor):
    """A tensor of the pretended device; its values are in ``inner``."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=_BACKEND,
            requires_grad=requires_grad,
        )

    def __init__(self, inner, requires_grad=False):
        self.inner = inner

    def __repr__(self):
        return f"DeviceTensor({self.inner!r})"

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)  # checkpoints are read on the CPU

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __deepcopy__(self, memo):
        copy = DeviceTensor(self.inner.clone(), self.requires_grad)
        if isinstance(self, nn.Parameter):
            copy._is_param = True
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _values(x):
    return x.inner if isinstance(x, DeviceTensor) else x


# Arguments and results of an operation hold tensors in lists and tuples, and nothing else does:
# torch's own functions for trees would take half of the time of these tests.
def _plain(x, tensors):
    # The values, and in `tensors` the tensors.
    if isinstance(x, Tensor):
        tensors.append(x)
        return x.inner if isinstance(x, DeviceTensor) else x
    if isinstance(x, tuple | list) and x and not isinstance(x[0], int):  # else a size
        return type(x)([_plain(part, tensors) for part in x])
    return x


def _wrapped(x):
    if isinstance(x, Tensor):
        return x if isinstance(x, DeviceTensor) else DeviceTensor(x)
    return type(x)(map(_wrapped, x)) if isinstance(x, tuple | list) else x


@functools.cache
def _name_of(func):
    name = func._schema.name
    return name.split("::")[1]


@functools.cache
def _returns_its_own(func):
    """Whether results are neither views of arguments nor arguments: nothing is to be corrected."""
    return all(result.alias_info is None for result in func._schema.returns)


def _count_copy(source, to_device, non_blocking):
    from_device = isinstance(source, DeviceTensor)
    if from_device and not to_device and not non_blocking:
        _wait("device to host")
    elif to_device and not from_device:
        if not non_blocking:
            _wait("host to device, blocking")
        elif not getattr(source, "_pinned", False):
            _wait("host to device, not pinned")


def _copy_to(func, args, kwargs, to_device, plain):
    # Tensor.to: a copy to another device, dtype or layout.
    _count_copy(args[0], to_device, bool(kwargs.pop("non_blocking", False)))
    out = func(*plain, **kwargs)
    return DeviceTensor(out) if to_device else out


def _copy_into(args, kwargs):
    target, source = args[:2]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    _count_copy(source, isinstance(target, DeviceTensor), non_blocking)
    _values(target).copy_(_values(source))
    return target


def _count_reads(func, name, args, kwargs):
    if name in _READS:
        _wait(name)
    counts = name == "repeat_interleave" and func._overloadname == "Tensor"
    if counts and kwargs.get("output_size") is None:
        _wait(name)
    if name in _INDEXING:
        for index in args[1]:
            if isinstance(index, Tensor) and not isinstance(index, DeviceTensor):
                _wait("index by a tensor of the host")
            elif isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                _wait("index by a mask")


def _check_devices(name, args, tensors):
    # As on a GPU: numbers and, for indexing, indices may be on the host.
    if name in _INDEXING:
        if not isinstance(args[0], DeviceTensor):
            raise RuntimeError(f"indices should be on the same device as the tensor ({name})")
        return
    if name != "set_" and any(x.ndim and not isinstance(x, DeviceTensor) for x in tensors):
        found = [(tuple(x.shape), x.device.type) for x in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device ({name}: {found})")


def _run(func, args, kwargs):
    global _queued
    name = _name_of(func)
    tensors = []
    plain = [_plain(value, tensors) for value in args]
    named = {key: _plain(value, tensors) for key, value in kwargs.items()}
    with_device = any(isinstance(x, DeviceTensor) for x in tensors)
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    to_device = device is not None and device.type in ("cuda", "privateuseone", "pretended")
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu" and (to_device or with_device):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
    if name in ("_pin_memory", "pin_memory"):
        return _pinned(tensors[0].clone())
    if name == "is_pinned":
        return bool(getattr(tensors[0], "_pinned", False))
    if name == "_fused_sdp_choice":
        return 0  # attention in plain operations
    on_host = dict(named)
    pin = bool(on_host.get("pin_memory"))
    if pin:
        on_host["pin_memory"] = False
    to_meta = device is not None and device.type == "meta"
    if device is not None and not to_meta:
        on_host["device"] = torch.device("cpu")
    if name == "_to_copy" and not to_meta:
        there = to_device if device is not None else with_device
        return _copy_to(func, args, on_host, there, plain)
    if with_device:
        _queued += 1
        if name == "copy_":
            return _copy_into(args, kwargs)
        _check_devices(name, args, tensors)
        _count_reads(func, name, args, kwargs)
    elif not to_device:
        out = func(*args, **on_host)
        return _pinned(out) if pin else out
    out = func(*plain, **on_host)
    if to_device or device is None:
        out = _wrapped(out)
    if with_device and device is None and not _returns_its_own(func):
        return return_and_correct_aliasing(func, args, kwargs, out)
    return out


def _pinned(tensor):
    tensor._pinned = True
    return tensor


class _Operations(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls):
        return False  # nothing is compiled here, and the guard costs a tenth of each operation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _is_gpu(device):
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


class _Calls(TorchFunctionMode):
    """What torch does before it dispatches: ``torch.tensor``, and "cuda" without a number."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func is torch.as_tensor and isinstance(first, DeviceTensor):
            return first if kwargs.get("dtype") is None else first.to(kwargs["dtype"])
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = GPU
            if func in _FACTORIES:
                requires_grad = kwargs.pop("requires_grad", False)
                del kwargs["device"]
                return func(*args, **kwargs).to(GPU).requires_grad_(requires_grad)
        if func is torch.Tensor.new_tensor and isinstance(first, DeviceTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)).to(GPU)
        if func is torch.Tensor.to and len(args) > 1 and _is_gpu(args[1]):
            args = (first, GPU, *args[2:])
        if func is torch.Tensor.cuda:
            return args[0].to(GPU, non_blocking=kwargs.get("non_blocking", False))
        return func(*args, **kwargs)


class _Module(backend_registration._DummyBackendModule):
    """What ``torch.random.fork_rng`` asks of a device's module."""

    def get_rng_state(self, *args):
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, *args):
        pass

    manual_seed = manual_seed_all = set_rng_state

    def _is_in_bad_fork(self):
        return False


class _Event:
    """An event. Waiting for it counts if no operation is queued behind it."""

    def __init__(self, **_):
        self.record()

    def record(self, stream=None):
        self.time, self._queued = time.perf_counter(), _queued

    def synchronize(self):
        if self._queued == _queued:
            _wait("event with nothing behind it")

    def query(self):
        return True

    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)


class _Stream:
    def record_event(self, event=None):
        event = event or _Event()
        event.record()
        return event


_ANSWERS = {
    "is_available": True,
    "is_initialized": True,
    "current_device": 0,
    "current_stream": _Stream(),
    "_exchange_device": 0,
    "_maybe_exchange_device": 0,
    "device_count": 1,
    "get_device_name": "pretended",
    "get_device_capability": (9, 0),
    "is_bf16_supported": True,
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "max_memory_reserved": 0,
    "mem_get_info": (70 << 30, 80 << 30),
    **dict.fromkeys(
        ("_lazy_init", "synchronize", "reset_peak_memory_stats", "manual_seed", "manual_seed_all"),
    ),
    **dict.fromkeys(("get_rng_state", "set_rng_state", "empty_cache", "set_device")),
}


_registered = False
_plain_to = nn.Module.to


def _module_to(module, *args, **kwargs):
    # torch would put the new values into the old parameters, which are of another class.
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    if device is None or device.type != "cuda":
        return _plain_to(module, *args, **kwargs)
    return moved(module if dtype is None else _plain_to(module, dtype))


@contextmanager
def pretended_gpu():
    """Let ``cuda`` be the pretended device."""
    global _registered
    if not _registered:
        register = backend_registration._setup_privateuseone_for_python_backend
        register("pretended", backend_module=_Module())
        _registered = True
    with ExitStack() as stack:
        for name, answer in _ANSWERS.items():
            stack.enter_context(
                mock.patch.object(torch.cuda, name, lambda *a, _answer=answer, **k: _answer)
            )
        stack.enter_context(mock.patch.object(torch.cuda, "Event", _Event))
        stack.enter_context(mock.patch.object(torch.cuda, "current_stream", return_value=_Stream()))
        stack.enter_context(mock.patch.object(nn.Module, "to", _module_to))
        stack.enter_context(mock.patch.object(torch, "compile", lambda function, **_: function))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Calls())
        stack.enter_context(_Operations())
        yield


def moved(module):
    """Move a module to the device, in place; shared parameters stay shared."""
    known = {}  # holds the old ones, so that no id is used again
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or isinstance(tensor, DeviceTensor):
                    continue
                if id(tensor) not in known:
                    new = DeviceTensor(tensor.detach().clone())
                    if tensors is part._parameters:
                        new = nn.Parameter(new, tensor.requires_grad)
                    known[id(tensor)] = (new, tensor)
                tensors[name] = known[id(tensor)][0]
        if hasattr(part, "_device"):
            part._device = GPU
    return module
