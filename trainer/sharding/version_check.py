"""Whether the installed torch, TorchRec and FBGEMM have the names that the package uses."""

import importlib
from collections.abc import Mapping

import torch

from trainer.errors import UserError

KNOWN_TO_WORK = "torch 2.11, 2.12, 2.13, 2.14 with torchrec and FBGEMM 1.6, 1.7, 1.8, 1.9, in this order"


class UnsupportedVersionsError(UserError):
    """The installed versions of torch, TorchRec and FBGEMM lack something that sharding needs."""


def unsupported(what: str) -> UnsupportedVersionsError:
    """Return the error that names what is missing, the installed versions, and those known to work."""
    installed = ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchrec", "fbgemm_gpu"))
    return UnsupportedVersionsError(
        f"{what}. Installed are {installed}; known to work are {KNOWN_TO_WORK}. Install one of these sets, "
        "for instance with launch/setup.sh"
    )


def _version(package: str) -> str:
    try:
        return getattr(importlib.import_module(package), "__version__", "of unknown version")
    except ImportError:
        return "missing"


def check(
    attributes: Mapping[str, Mapping[str, str]], operators: Mapping[str, tuple[str, tuple[str, ...]]]
) -> None:
    """Refuse installed versions in which a private name is missing or an operator takes other arguments.

    Args:
        attributes: What each name is used for, by module or class; methods end with `()`.
        operators: What each of FBGEMM's operators is used for, and its first arguments in order.

    Raises:
        UnsupportedVersionsError: A name has no match; the message names the first.
    """
    for place, names in attributes.items():
        for name, why in names.items():
            if not _has(place, name):
                raise unsupported(f"{place} has no {name}, which {why}")
    for name, (why, expected) in operators.items():
        operator = getattr(torch.ops.fbgemm, name, None)
        if operator is None:
            raise unsupported(f"torch.ops.fbgemm has no {name}, which {why}")
        found = tuple(argument.name for argument in operator.default._schema.arguments)
        if found[: len(expected)] != expected:
            others = f"takes other arguments ({', '.join(found)})"
            raise unsupported(f"torch.ops.fbgemm.{name}, which {why}, {others}")


def _has(place: str, name: str) -> bool:
    """Tell whether a module has a name; or a class a method; or its instances an attribute."""
    module, _, kind = place.rpartition(".")
    if kind[0].islower():
        return name in vars(importlib.import_module(place))
    owner = getattr(importlib.import_module(module), kind, None)
    if name.endswith("()"):
        return hasattr(owner, name.removesuffix("()"))
    return owner is not None and any(_mentions(each, name) for each in owner.__mro__)


def _mentions(kind: type, attribute: str) -> bool:
    """Tell whether a class declares an attribute, or a method of it reads or sets one of that name."""
    members = vars(kind)
    if attribute in members or attribute in members.get("__annotations__", {}):
        return True
    codes = (getattr(member, "__code__", None) for member in members.values())
    return any(code is not None and attribute in code.co_names for code in codes)
