"""`--recipe`: settings of flowerseg-train from a TOML file."""

import math
import reprlib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import click

from flowerseg.errors import some_of
from flowerseg.smallfiles import read_small_text, reason_of

_NOT_IN_RECIPES = {"recipe", "resume", "force", "as_json"}
_LARGEST = 2**63


def use_recipe(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Callback of `--recipe`: let a recipe fill in what the command line leaves open.

    Raises:
        click.BadParameter: the file cannot be read, or a setting is unknown or of another type.
    """
    if value is None:
        return None
    settings = _settings(value)
    chosen = {name.replace("-", "_"): setting for name, setting in settings.items()}
    known = {p.name: p for p in ctx.command.params if p.name not in _NOT_IN_RECIPES}
    if unknown := sorted(chosen.keys() - known.keys()):
        raise click.BadParameter(
            f"{value}: unknown {some_of(unknown)}. Settings are named like the long options."
        )
    for name, setting in chosen.items():
        if _holds_large_number(setting):  # which Python refuses to print
            raise click.BadParameter(
                f"{value}: {name.replace('_', '-')} holds a number that is too large"
            )
        if wanted := _wanted(known[name], setting):
            raise click.BadParameter(
                f"{value}: {name.replace('_', '-')} = {reprlib.repr(setting)} is not {wanted}"
            )
    ctx.default_map = {**(ctx.default_map or {}), **chosen}
    return value


def _settings(value: str) -> dict[str, Any]:
    """What a recipe holds.

    Raises:
        click.BadParameter: the file cannot be read, or is no TOML.
    """
    try:
        text = _recipe_text(value)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{value}: cannot be read as TOML: {reason_of(error)}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)[:200]
    except ValueError:  # its own text advises a switch of Python
        reason = "it holds a number that is too large"
    except RecursionError:
        reason = "it is nested too deep"
    raise click.BadParameter(f"{value}: cannot be read as TOML: {reason}")


def _recipe_text(value: str) -> str:
    if value == "notebook":
        return resources.files("flowerseg").joinpath("recipes/notebook.toml").read_text("utf-8")
    return read_small_text(Path(value))


def _holds_large_number(setting: Any) -> bool:
    """Whether it is, or holds, a whole number of more than 64 bits; TOML has none."""
    if isinstance(setting, dict):
        setting = list(setting.values())
    if isinstance(setting, list):
        return any(map(_holds_large_number, setting))
    return isinstance(setting, int) and not -_LARGEST <= setting < _LARGEST


def _wanted(parameter: click.Parameter, setting: Any) -> str:
    """What a setting should be, where it is something else; click itself would round or cut it."""
    if isinstance(parameter, click.Option) and parameter.multiple:
        is_list = isinstance(setting, list)
        return "" if is_list and all(_is_text(each) for each in setting) else "a list of texts"
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return "" if isinstance(setting, bool) else "true or false"
    if isinstance(parameter.type, click.types.IntParamType):
        return "" if type(setting) is int else "a whole number"
    if isinstance(parameter.type, click.types.FloatParamType):
        return "" if _is_finite(setting) else "a number"
    return "" if _is_text(setting) else "a text"


def _is_finite(setting: Any) -> bool:
    return type(setting) in (int, float) and abs(setting) < _LARGEST and math.isfinite(setting)


def _is_text(setting: Any) -> bool:
    return isinstance(setting, str) and "\0" not in setting
