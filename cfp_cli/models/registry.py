"""Build a network with fresh weights from the name of its architecture: built-in, torchvision, timm, or a factory."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from cfp_cli.foundation.errors import CfpError, UsageError
from cfp_cli.foundation.extras import require_packages
from cfp_cli.models.added_head import ADDED_HEAD, WithHead

TORCHVISION = "torchvision:"
TIMM = "timm:"

# Auxiliary heads are only used in training on ImageNet, so networks are built without them.
_TORCHVISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def auxiliary_prefixes(arch: str) -> tuple[str, ...]:
    """Return the name prefixes of the auxiliary heads that published checkpoints of an architecture contain."""
    name = arch.removeprefix(TORCHVISION)
    return _AUXILIARY.get(name, ("aux_classifier.",) if name in _dense_names() else ())


def create(arch: str, classes: int, **arch_kwargs: Any) -> nn.Module:
    """Build a network with fresh weights. Nothing is ever downloaded.

    Args:
        arch: a built-in (`vgg16_bn_gap`, `repvgg_a0`, `dddn`), `torchvision:NAME` or a bare torchvision NAME,
            `timm:NAME`, or `FILE.py:FACTORY`, a function that takes the number of classes (as `num_classes`, `classes`
            or its first argument) and returns a module.
        classes: number of logits.
        arch_kwargs: further arguments of the factory. `added_head` is none: it is the number of features of a network
            without a head, to which a head is added, see `WithHead`.

    Raises:
        UsageError: the architecture is unknown, or its factory does not accept these arguments.
    """
    features = arch_kwargs.pop(ADDED_HEAD, None)
    try:
        model = _call_factory(_factory(arch), classes, arch_kwargs)
    except CfpError:
        raise
    except (Exception, SystemExit) as error:
        # A factory is user code and can raise anything.
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"architecture '{arch}' cannot be built ({what}); check its code and arguments") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"'{arch}' returns a {type(model).__name__}, not a torch.nn.Module; fix the factory")
    lazy = next((name for name, value in model.state_dict(keep_vars=True).items() if is_lazy(value)), None)
    if lazy is not None:
        raise UsageError(
            f"'{arch}' has lazy modules, whose shapes are unknown before the first image ('{lazy}'); write their "
            "sizes in the factory, such as nn.Linear(512, num_classes) for nn.LazyLinear(num_classes)"
        )
    return model if features is None else WithHead(model, features, classes)


def _call_factory(factory: Callable[[int, dict[str, Any]], Any], classes: int, kwargs: dict[str, Any]) -> Any:
    try:
        return factory(classes, kwargs)
    except Exception:
        if torch.get_default_device().type != "meta":
            raise
    # Some constructors compute with tensor values, which the meta device does not have. What they raise then varies.
    with torch.device("cpu"):
        return factory(classes, kwargs).to("meta")


def is_factory_file(arch: str) -> bool:
    """Return whether an architecture is a `FILE.py:FACTORY`, whose code runs when it is built."""
    return ":" in arch and not arch.startswith((TIMM, TORCHVISION))


def is_known(arch: str) -> bool:
    """Return whether an architecture is a built-in, a network of torchvision, or has the form of another library's."""
    name = arch.removeprefix(TORCHVISION)
    return arch.startswith(TIMM) or is_factory_file(arch) or name in _built_in() or name in _torchvision_names()


def known_architectures() -> list[str]:
    """Return the names of the built-in networks and those of torchvision, sorted."""
    return sorted([*_built_in(), *_torchvision_names()])


def _factory(arch: str) -> Callable[[int, dict[str, Any]], Any]:
    if arch.startswith(TIMM):
        return _timm(arch.removeprefix(TIMM))
    if is_factory_file(arch):
        path, _, name = arch.rpartition(":")
        return _from_file(Path(path), name)
    built_in = _built_in().get(arch)
    if built_in is not None:
        return lambda classes, kwargs: built_in(classes, **kwargs)
    name = arch.removeprefix(TORCHVISION)
    if name in _torchvision_names():
        return _torchvision(name)
    close = difflib.get_close_matches(name, known_architectures(), 3)
    hint = f"did you mean {' or '.join(close)}" if close else "use a torchvision name, timm:NAME or FILE.py:FACTORY"
    raise UsageError(f"no architecture '{arch}'; {hint}")


def _built_in() -> dict[str, Callable[..., nn.Module]]:
    # A factory takes the number of classes and keyword arguments that JSON can store (`ModelSpec.arch_kwargs`). It
    # returns a module with fresh weights that maps images float32 [N, C, H, W] to logits [N, classes], and that
    # `torch.export` can trace. Names and shapes of the tensors are the same in each call, also on the meta device.
    from cfp_cli.models.dddn import dddn
    from cfp_cli.models.repvgg import repvgg_a0
    from cfp_cli.models.vgg import vgg16_bn_gap

    return {"dddn": dddn, "repvgg_a0": repvgg_a0, "vgg16_bn_gap": vgg16_bn_gap}


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [*models.list_models(module=models), *_dense_names()]


def _dense_names() -> list[str]:
    """Names of torchvision's networks that are built with the weights of a backbone unless told otherwise."""
    from torchvision import models

    return [name for module in (models.segmentation, models.detection) for name in models.list_models(module=module)]


def _torchvision(name: str) -> Callable[[int, dict[str, Any]], Any]:
    from torchvision import models

    def build(classes: int, kwargs: dict[str, Any]) -> Any:
        arguments = _TORCHVISION_DEFAULTS.get(name, {}) | kwargs
        if name in _dense_names():
            arguments = {"weights_backbone": None, **arguments}
        return models.get_model(name, weights=None, num_classes=classes, **arguments)

    return build


def _timm(name: str) -> Callable[[int, dict[str, Any]], Any]:
    require_packages(f"'{TIMM}{name}'", ("timm",))
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(close)}" if close else "see timm.list_models()"
        raise UsageError(f"timm has no model '{name}'; {hint}")
    return lambda classes, kwargs: timm.create_model(name, pretrained=False, num_classes=classes, **kwargs)


def _from_file(path: Path, name: str) -> Callable[[int, dict[str, Any]], Any]:
    if not path.is_file():
        raise UsageError(
            f"no file {path} for architecture '{path}:{name}'; pass FILE.py:FACTORY, timm:NAME or a torchvision name"
        )
    # A name of its own, since the file may have the name of a package that other code imports.
    module_name = f"_cfp_{path.stem}"
    folder = str(path.resolve().parent)
    # With these locations, the file can import other files of its folder by `from .blocks import`.
    spec = importlib.util.spec_from_file_location(module_name, path, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file; pass FILE.py:FACTORY")
    module = importlib.util.module_from_spec(spec)
    # Without a dot too.
    sys.path.insert(0, folder)
    earlier = sys.modules.get(module_name)
    if earlier is not None and earlier.__file__ != module.__file__:
        # A file of the same name in another folder must not take the neighbours of this one.
        for each in [each for each in sys.modules if each.startswith(f"{module_name}.")]:
            del sys.modules[each]
    # Dataclasses look for their module there.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise UsageError(
            f"{path} ends Python when it is imported (SystemExit: {error}), as scripts do that read arguments; move "
            'what the script does below `if __name__ == "__main__":`, or the network to a file of its own'
        ) from error
    except Exception as error:
        if "beyond top-level package" in str(error):
            raise UsageError(
                f"{path} imports from above its folder by `from ..`, which only works inside a package; write the "
                "import without leading dots, and put the folder above the package in PYTHONPATH"
            ) from error
        raise UsageError(f"{path} cannot be imported ({type(error).__name__}: {error}); fix the file") from error
    finally:
        sys.path.remove(folder)
    factory = getattr(module, name, None)
    if isinstance(factory, nn.Module):
        raise UsageError(
            f"'{name}' in {path} is a network, not a function; write `def factory(num_classes): return NET(...)` and "
            f"pass {path}:factory"
        )
    if not callable(factory):
        raise UsageError(f"{path} has no function '{name}'; pass FILE.py:FACTORY")
    return lambda classes, kwargs: _call_with_class_count(factory, classes, kwargs)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


# Names that factories give to the number of classes, without underscores.
_CLASS_COUNT = frozenset(
    ("numclasses", "classes", "nclasses", "nclass", "nbclasses", "numclass", "classnum", "numlabels", "numoutputs")
)


# Likewise for the channels of the images. A factory that requires them gets 3; the weights of a file decide then.
_CHANNEL_COUNT = frozenset(
    ("nchannels", "inchannels", "inch", "inchans", "nchan", "channels", "inputchannels", "inputch")
)


def _call_with_class_count(factory: Callable[..., Any], classes: int, kwargs: dict[str, Any]) -> Any:
    """Call a factory with the number of classes, by name or as its first argument; without it if it takes nothing."""
    parameters = inspect.signature(factory).parameters
    for name in parameters:
        if _plain(name) in _CLASS_COUNT:
            channels = {
                each: 3
                for each, parameter in parameters.items()
                if _plain(each) in _CHANNEL_COUNT and parameter.default is parameter.empty
            }
            return factory(**{name: classes}, **{**channels, **kwargs})
    if not parameters:
        return factory(**kwargs)
    if all(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return factory(num_classes=classes, **kwargs)
    required = [
        name for name, each in parameters.items() if each.default is each.empty and each.kind is each.KEYWORD_ONLY
    ]
    if all(each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD) for each in parameters.values()):
        unset = [name for name in required if name not in kwargs]
        if len(unset) > 1:
            raise UsageError(
                f"the factory needs {', '.join(unset)}, and none of them is num_classes; name the number of classes "
                "num_classes and give the others defaults"
            )
        return factory(**dict.fromkeys(unset, classes), **kwargs)
    return factory(classes, **kwargs)
