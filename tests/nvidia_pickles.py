"""Writes pickles in the layout of NVIDIA's `torch_utils.persistence`, with source text of our own.

The layout is that of shared/data/generators/nvlabs_stylegan3_repo/README.md: each network and each of its parts is one
call of `_reconstruct_persistent_obj(meta)`, where `meta` holds the source of its module as text, the name of its class,
and the `__dict__` of the `nn.Module`; each tensor's storage is a nested stream of torch's older format.
"""

import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager

import torch

SOURCE = "raise RuntimeError('the source text of a pickle was run')\n"
_NAMES = ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")


@contextmanager
def nvidia_modules():
    """Modules of NVIDIA's names in `sys.modules`, as pickle needs them for writing; removed afterwards."""
    before = {name: sys.modules.get(name) for name in _NAMES}
    modules = {name: types.ModuleType(name) for name in _NAMES}
    sys.modules.update(modules)
    easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    modules["dnnlib.util"].EasyDict = easy

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("this pickle is not for loading by pickle")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    try:
        yield easy, _reconstruct_persistent_obj
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


class _Persistent:
    """An object that is pickled as one call of `_reconstruct_persistent_obj`."""

    def __init__(self, function, meta):
        self.function, self.meta = function, meta

    def __reduce__(self):
        return self.function, (self.meta,)


def _easy(value, easy):
    return easy({key: _easy(each, easy) for key, each in value.items()}) if isinstance(value, dict) else value


def network(state, init_kwargs, class_name="Generator", buffers=(), attributes=None, kwargs_of=None, source=SOURCE):
    """A description of a network for `write`.

    Args:
        state: tensors by dotted names.
        init_kwargs: keyword arguments of its constructor; nested dicts become `EasyDict`.
        class_name: its class.
        buffers: the names of `state` that are buffers; the rest are parameters.
        attributes: plain attributes of each part by its dotted path ("" is the network itself).
        kwargs_of: `_init_kwargs` of each part by its path.
        source: the text of its module.
    """
    return {
        "state": state,
        "init_kwargs": init_kwargs,
        "class_name": class_name,
        "buffers": set(buffers),
        "attributes": attributes or {},
        "kwargs_of": kwargs_of or {},
        "source": source,
    }


def _build(spec, path, easy, function):
    prefix = f"{path}." if path else ""
    inside = {name.removeprefix(prefix): tensor for name, tensor in spec["state"].items() if name.startswith(prefix)}
    children = list(dict.fromkeys(name.partition(".")[0] for name in inside if "." in name))
    parameters, buffers = OrderedDict(), OrderedDict()
    for name, tensor in inside.items():
        if "." not in name and prefix + name in spec["buffers"]:
            buffers[name] = tensor
        elif "." not in name:
            parameters[name] = torch.nn.Parameter(tensor, requires_grad=False)
    kwargs = spec["init_kwargs"] if not path else spec["kwargs_of"].get(path, {})
    state = {
        "training": False,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict((name, _build(spec, prefix + name, easy, function)) for name in children),
        **spec["attributes"].get(path, {}),
        "_init_args": (),
        "_init_kwargs": _easy(dict(kwargs), easy),
    }
    name = spec["class_name"] if not path else spec["attributes"].get(path, {}).get("_class_name", "Part")
    meta = {"type": "class", "version": 6, "module_src": spec["source"], "class_name": name, "state": state}
    return _Persistent(function, meta)


def write(path, contents, protocol=4, old_numpy=False):
    """Write a pickle.

    Args:
        path: the file.
        contents: its dict; values made by `network` become persistent objects, and dicts `EasyDict`.
        protocol: of pickle.
        old_numpy: write the names of numpy before 2.0; needs protocol 3, whose names have no lengths.
    """
    with nvidia_modules() as (easy, function):
        made = {
            name: _build(value, "", easy, function)
            if isinstance(value, dict) and "class_name" in value
            else _easy(value, easy)
            for name, value in contents.items()
        }
        data = pickle.dumps(made, protocol)
    if old_numpy:
        assert protocol == 3
        data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    path.write_bytes(data)
