"""Parts of a config: a callable, named by a short name or as "package.module:callable", and its keyword arguments.

    c.network.name = "unet"                      one of `SHORT_NAMES`, its arguments in the section of its name
    c.network.unet.features = (32, 64)
    c.network.name = "my_nets:Net"               any other, its arguments in `options`
    c.network.options = "width=64, depth=3"

Arguments are checked against the signature of the callable, and their values by the callable. Values that are known
where it is called (the number of outputs, the folder of the data, ...) are given to it where its signature has such a
name.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from dpm_jax.errors import UserError
from dpm_jax.numerics.refuse import nearest

__all__ = ["SHORT_NAMES", "Part", "call", "check", "defaults", "find", "options", "parameters", "part", "summary"]

# Section of the config -> short name -> where it is. The first is the default.
SHORT_NAMES: dict[str, dict[str, str]] = {
    "data": {
        "swiss_roll": "dpm_jax.data.sources:swiss_roll_source",
        "heartbeat": "dpm_jax.data.sources:heartbeat_source",
        "dead_leaves": "dpm_jax.data.sources:dead_leaves_source",
        "tfds": "dpm_jax.data.on_disk:tfds_source",
        "folder": "dpm_jax.data.on_disk:folder_source",
        "file": "dpm_jax.data.on_disk:file_source",
    },
    "schedule": {name: f"dpm_jax.schedules:{name}" for name in ("geometric", "erase", "linear", "cosine", "sigmoid")},
    "network": {
        "time_mlp": "dpm_jax.nets.mlp:TimeMLP",
        "sigmoid_mlp": "dpm_jax.nets.mlp:SigmoidMLP",
        "rbf": "dpm_jax.nets.rbf:RBF",
        "multiscale": "dpm_jax.nets.multiscale:MultiscaleNet",
        "unet": "dpm_jax.nets.unet:UNet",
    },
    "cold": {name: f"dpm_jax.degradations:{name}" for name in ("blur", "pixelate", "fade", "mask")},
}

# Of a Flax module, beside what it is made from.
_FLAX = ("parent", "name")


@dataclasses.dataclass(frozen=True)
class Part:
    """A callable that a config names, with the arguments that it gives.

    Attributes:
      name: as in the config.
      function: what it names.
      arguments: by keyword.
      field: where the arguments are, for messages.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    field: str

    def takes(self, name: str) -> bool:
        """Return whether the callable has a parameter of this name."""
        return name in parameters(self.function)

    def check(self, *known: str) -> None:
        """Refuse arguments that its signature has not, or has for what is known.

        Raises:
          UserError: naming the argument.
        """
        check(self.function, self.arguments, self.field, known)

    def __call__(self, **known: Any) -> Any:
        """Call it with the arguments of the config, and with those of `known` that its signature has.

        Raises:
          UserError: if an argument is unknown or missing, or the callable refuses one by a ValueError.
        """
        return call(self.function, self.arguments, self.field, **known)


def part(section: ConfigDict, field: str, names: Mapping[str, str], selector: str = "name") -> Part:
    """Return the part that a section of a config names.

    Args:
      section: has the fields `selector` and, where a part can be one's own, `options`.
      field: of the section, "config.network".
      names: short name -> "package.module:callable".
      selector: the field with the name.

    Raises:
      UserError: if it names nothing, or its options are not keyword arguments.
    """
    name = section[selector]
    function = find(f"{field}.{selector}", name, names)
    given = section[name].to_dict() if name in section else {}
    more = options(f"{field}.options", section.get("options", ""))
    return Part(name, function, given | more, f"{field}.{name}" if name in section else f"{field}.options")


def find(field: str, name: str, names: Mapping[str, str]) -> Callable[..., Any]:
    """Return the callable of this short name, or of this path.

    Raises:
      UserError: if there is none, with the nearest name, or what its module does when it is imported.
    """
    if name not in names and ":" not in name:
        known = ", ".join(names)
        raise UserError(
            f'{field}: must be one of {known}, or "package.module:callable", got {name!r}{nearest(name, names)}'
        )
    module_name, _, attribute = names.get(name, name).partition(":")
    # A workdir names parts, too: it shall not call what comes with Python, such as os.system.
    if module_name.split(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{field}: {module_name!r} comes with Python, and holds no parts")
    try:
        module = importlib.import_module(module_name)
    # A module, being a program, may raise anything.
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name))
        where = traceback.extract_tb(error.__traceback__)[-1]
        hint = "; run in its folder, or have that on PYTHONPATH" if missing else f" ({where.filename}:{where.lineno})"
        raise UserError(f"{field}: cannot import {module_name!r}: {type(error).__name__}: {error}{hint}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        others = [other for other in dir(module) if callable(getattr(module, other))]
        raise UserError(f"{field}: {module_name!r} has no callable {attribute!r}{nearest(attribute, others)}")
    return found  # type: ignore[no-any-return]


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given by keyword; of a Flax module, its attributes."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in found if p.kind in named and not (inspect.isclass(function) and p.name in _FLAX)}


def options(field: str, text: str) -> dict[str, Any]:
    """Read 'b1=0.9, nesterov=True' as a dict of literals.

    Raises:
      UserError: if it is not like that.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise ValueError
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"{field}: must be like 'momentum=0.9, nesterov=True', got {text!r}") from None


def defaults(path: str) -> dict[str, Any]:
    """Return the arguments of a callable that have a default a config can hold, with these; None is any number."""
    kept = {}
    for name, parameter in parameters(find("", path, {})).items():
        value = parameter.default
        if value is None and "float" in str(parameter.annotation):
            kept[name] = config_dict.placeholder(float)
        elif isinstance(value, bool | int | float | str | tuple):
            kept[name] = value
    return kept


def call(function: Callable[..., Any], arguments: Mapping[str, Any], field: str, **known: Any) -> Any:
    """Call a function with keyword arguments of a config, and with those of `known` that its signature has.

    Args:
      function: what to call.
      arguments: as the config gives them.
      field: where they are.
      **known: given where the signature has the name; a config that gives it again is refused.

    Raises:
      UserError: if an argument is unknown or missing, or the function refuses one by a ValueError.
    """
    check(function, arguments, field, known)
    takes = parameters(function)
    for name, parameter in takes.items():
        if parameter.default is inspect.Parameter.empty and not (name in arguments or name in known):
            raise UserError(f"{field}: {_called(function)} needs {name!r}; give {name}=...")
    offered = {name: value for name, value in known.items() if name in takes}
    try:
        return function(**offered, **arguments)
    except (ValueError, TypeError) as error:
        raise UserError(refused(str(error) or type(error).__name__, field, arguments)) from error


def check(function: Callable[..., Any], arguments: Mapping[str, Any], field: str, known: Iterable[str]) -> None:
    """Refuse keyword arguments that a signature has not, or has for what is known here.

    Raises:
      UserError: naming the argument, with the nearest there is.
    """
    takes = parameters(function)
    offered = [name for name in known if name in takes]
    open_to_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    ours = [name for name in takes if name not in offered]
    for name in arguments:
        if name in offered or not (name in takes or open_to_all):
            raise UserError(
                f"{field}: {_called(function)} takes {', '.join(ours) or 'no arguments'}, not {name!r}"
                f"{nearest(name, ours)}"
            )


def refused(message: str, field: str, arguments: Iterable[str]) -> str:
    """Return a message about one of the arguments with the field of that argument before it."""
    name = re.match(r"(\w+): ", message)
    return f"{field}{'.' if name and name[1] in arguments else ': '}{message}"


def _called(function: Callable[..., Any]) -> str:
    module = str(getattr(function, "__module__", "")).split(".")[0]
    return f"{'optax.' if module == 'optax' else ''}{getattr(function, '__name__', function)}"


def summary(config: ConfigDict) -> str:
    """Return the parts that have short names, with what they are and the arguments that a config has for them."""
    lines = []
    for section, names in SHORT_NAMES.items():
        selector = "degradation" if section == "cold" else "name"
        lines.append(f'config.{section}.{selector}: one of these, or "package.module:callable"')
        for name, path in names.items():
            first = (inspect.getdoc(find("", path, {})) or "").splitlines()[0]
            lines.append(f"  {name}: {first}")
            arguments = config[section].get(name, {})
            lines += [f"    --config.{section}.{name}.{key}={_shown(value)}" for key, value in arguments.items()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "NUMBER" if value is None else repr(value).replace(" ", "")
