"""Configuration: frozen dataclasses, TOML files of differences, and `--set a.b=c`. An unknown key is an error that names it.

A field whose type is a union of dataclasses is a choice between strategies. Each alternative has a `strategy: Literal[...]`
field. To set that field, for example with `curriculum.strategy=thompson`, chooses the alternative with its own defaults.
Fields that all alternatives have in common keep their values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from instar import plain
from instar.errors import ConfigError, nearest
from instar.plain import brief, word

T = TypeVar("T")
DISCRIMINATOR = "strategy"
_WORDS = {
    bool: "true or false",
    int: "a whole number, such as 8",
    float: "a number, such as 0.5",
    str: 'a text in quotes, such as "a"',
}


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dict that JSON can hold. Tuples become lists."""
    value = _plain(config)
    assert isinstance(value, dict)
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def dumps(config: Any) -> str:
    """Return canonical JSON: sorted keys, no blanks, NaN refused."""
    return json.dumps(_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(config: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a config."""
    return hashlib.sha256(dumps(config).encode()).hexdigest()


def from_dict(kind: Any, data: Any, where: str = "config") -> Any:
    """Build a value of type `kind` from plain data. Unknown keys and wrong types raise `ConfigError`."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _from_union(kind, data, where)
    if dataclasses.is_dataclass(kind):
        return _from_mapping(kind, data, where)
    if origin is Literal:
        if data is None and "none" in get_args(kind):
            return "none"  # `--set a.b=none` was read as null, but this field has the word "none" as a choice
        if data not in get_args(kind):
            options = ", ".join(map(str, get_args(kind)))
            raise _wrong(f"one of {options}", data, where, nearest(word(data), map(str, get_args(kind))))
        return data
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise _wrong("a list", data, where, 'write a list in brackets, such as ["a", "b"]')
        args = get_args(kind)
        inner = [args[0]] * len(data) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) != len(data):
            raise _wrong(f"{len(inner)} items", data, where, f"write a list of {len(inner)} items")
        return tuple(from_dict(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, data, strict=True)))
    if origin is dict:
        if not isinstance(data, Mapping):
            raise _wrong("a table", data, where, "write a table in braces, such as {a = 1}")
        return {str(k): from_dict(get_args(kind)[1], v, f"{where}.{k}") for k, v in data.items()}
    return _scalar(kind, data, where)


def _scalar(kind: Any, data: Any, where: str) -> Any:
    _check_finite(data, where)
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if kind is int and isinstance(data, float) and data.is_integer():
        return int(data)
    if kind is Any or (isinstance(data, kind) and not (kind is int and isinstance(data, bool))):
        return data
    raise _wrong(kind.__name__, data, where, f"write {_WORDS.get(kind, kind.__name__)}")


def _check_finite(data: Any, where: str) -> None:
    """Refuse inf and nan, because canonical JSON cannot hold them, and integers that are too large for a float."""
    try:
        finite = not isinstance(data, int | float) or math.isfinite(data)
    except OverflowError:
        finite = False
    if not finite:
        raise _wrong("a finite number", data if isinstance(data, float) else "an integer beyond 1e308", where)


def _from_mapping(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(f"a table of {kind.__name__}", data, where)
    _check_keys(kind, data, where)
    hints = get_type_hints(kind)
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in data]:
        raise ConfigError(
            expected=f"all required keys of {kind.__qualname__}",
            found=f"no value for {', '.join(missing)}",
            where=f"{where}.{missing[0]}",
            action=f"set {' and '.join(missing)} as well",
        )
    return kind(**{key: from_dict(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _check_keys(kind: Any, data: Mapping[Any, Any], where: str) -> None:
    """Refuse a key that is not a field. A constant of the class is not a field."""
    names = [f.name for f in dataclasses.fields(kind)]
    for key in data:
        if key not in names:
            raise ConfigError(
                expected=f"a key of {kind.__qualname__}",
                found=f"'{key}'",
                where=f"{where}.{key}",
                action=nearest(str(key), names),
            )


def _from_union(kind: Any, data: Any, where: str) -> Any:
    options = [a for a in get_args(kind) if a is not type(None)]
    if data is None and len(options) < len(get_args(kind)):
        return None
    if not all(dataclasses.is_dataclass(o) for o in options):
        if len(options) == 1:
            return from_dict(options[0], data, where)
        words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
        if type(data) in options or data in words:
            _check_finite(data, where)
            return data
        kinds = [getattr(o, "__name__", str(o)) for o in options if get_origin(o) is not Literal]
        raise _wrong(" or ".join([*kinds, *map(str, words)]), data, where)
    if len(options) == 1:
        return from_dict(options[0], data, where)
    by_name = {get_args(get_type_hints(o)[DISCRIMINATOR])[0]: o for o in options}
    name = data.get(DISCRIMINATOR) if isinstance(data, Mapping) else data
    if not isinstance(name, str) or name not in by_name:
        raise _wrong(
            f"{DISCRIMINATOR} one of {', '.join(by_name)}",
            name,
            f"{where}.{DISCRIMINATOR}",
            nearest(word(name), by_name),
        )
    return _from_mapping(by_name[name], data if isinstance(data, Mapping) else {DISCRIMINATOR: name}, where)


def _wrong(expected: str, found: Any, where: str, action: str = "") -> ConfigError:
    return ConfigError(expected=expected, found=brief(found), where=where, action=action or f"write {expected}")


def out_of_range(key: str, expected: str, found: Any, more: str = "") -> ConfigError:
    """Return the error for a value that a configuration class refuses.

    Its action says which value to set. `more` adds a reason or another remedy to the action.
    """
    value = f"a value {expected}" if expected.startswith(("<", ">", "in ")) else expected
    action = f"set {key} to {value}" + (f"; {more}" if more else "")
    return ConfigError(expected=expected, found=str(found), where=key, action=action)


def merge(config: T, changes: Mapping[str, Any], where: str = "config", given: Mapping[str, Any] | None = None) -> T:
    """Return a copy of a config dataclass with a nested mapping of differences applied.

    Each of the differences in `given` must have an effect, otherwise `ConfigError` is raised. None stands for all `changes`.
    """
    merged: T = _merge(type(config), config, changes, where)
    check_read(merged, changes if given is None else given, where)
    return merged


def _merge(kind: Any, config: Any, changes: Any, where: str) -> Any:
    if isinstance(changes, str) and hasattr(config, DISCRIMINATOR):
        changes = {DISCRIMINATOR: changes}
    if not (dataclasses.is_dataclass(config) and isinstance(changes, Mapping)):
        return from_dict(kind, changes, where)
    if DISCRIMINATOR in changes and changes[DISCRIMINATOR] != getattr(config, DISCRIMINATOR, changes[DISCRIMINATOR]):
        return from_dict(kind, {**_shared(kind, config), **changes}, where)
    _check_keys(type(config), changes, where)
    hints = get_type_hints(type(config))
    try:
        updates = {k: _merge(hints[k], getattr(config, k), v, f"{where}.{k}") for k, v in changes.items()}
        return dataclasses.replace(config, **updates)  # type: ignore[type-var]
    except ConfigError as error:
        raise _at_home(error, config, [f"{where}.{k}" for k in changes]) from error


def check_read(config: Any, given: Any, where: str) -> None:
    """Raise `ConfigError` if a field was given that has no effect with the other settings.

    `ineffective_fields` of a configuration maps each field without effect to the setting that would read it. For example, it
    maps `max_windows` to `rollout.act=true`. A field of a part is written `part.field`.
    """
    if not (dataclasses.is_dataclass(config) and isinstance(given, Mapping)):
        return
    readers: dict[str, str] = getattr(config, "ineffective_fields", dict)()
    for path, reader in readers.items():
        *parts, name = path.split(".")
        holder, told = config, given
        for part in parts:
            below = told.get(part)
            holder, told = getattr(holder, part), below if isinstance(below, Mapping) else {}
        default = next(f.default for f in dataclasses.fields(holder) if f.name == name)
        if name in told and (value := getattr(holder, name)) != default:
            raise ConfigError(
                expected=f"the default {_shown(default)}, because this setting has an effect only with {reader}",
                found=_shown(value),
                where=f"{where}.{path}",
                action=f"leave it out, or set {reader}",
            )
    for name, value in given.items():
        check_read(getattr(config, name, None), value, f"{where}.{name}")


def _at_home(error: ConfigError, config: Any, keys: Sequence[str]) -> ConfigError:
    """Return the error with the key's full name in the recipe, and with the value that the recipe has without the change.

    A check of a class knows a field only by a name such as `update.lr`. In the recipe, the same part may have another name.
    """
    root, _, rest = error.where.partition(".")
    key = next((k for k in keys if rest and k.endswith(f".{rest}")), None)
    if key is None:
        return error
    home, name = key.removesuffix(f".{rest}").rpartition(".")[2], rest.rpartition(".")[2]
    present = getattr(config, name)
    useless = (
        dataclasses.is_dataclass(present) or error.found in (str(present), repr(present)) or error.action[-1] == "?"
    )
    tail = "" if useless else f"; left out, it is {_shown(present)}"
    return ConfigError(
        expected=error.expected,
        found=error.found,
        where=f"{home}.{rest}",
        action=error.action.replace(f"{root}.{rest}", f"{home}.{rest}") + tail,
    )


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(_plain(value))


def _shared(kind: Any, config: Any) -> dict[str, Any]:
    """Return the current values of the fields that all alternatives of a union have."""
    options = [o for o in get_args(kind) if dataclasses.is_dataclass(o)] or [kind]
    names = set.intersection(*({f.name for f in dataclasses.fields(o)} for o in options)) - {DISCRIMINATOR}
    return {name: _plain(getattr(config, name)) for name in sorted(names)}


def parse_set(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn texts such as `a.b=c` into a nested dict. Values are TOML. A value that is not TOML is taken as a string."""
    pairs = []
    for text in assignments:
        path, sign, raw = text.partition("=")
        if not sign or not path.strip():
            raise _wrong("key=value", text, "--set", "write for example --set update.lr=1e-4")
        pairs.append((path, plain.toml_value(raw, f"--set {path.strip()}")))
    return nested(pairs, "--set")


def nested(pairs: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Turn pairs such as `("a.b", value)` into a nested dict. A dataclass, a tuple or a table among the values becomes plain.

    Two values for one key are a `ConfigError`, and so are a value for a key and one for a key below it.
    """
    out: dict[str, Any] = {}
    for path, value in pairs:
        keys = path.strip().split(".")
        if not all(keys):
            raise _wrong("a key, or keys joined by dots", path, where, "write for example update.lr")
        node = out
        for parent in plain.checked_path(keys, where)[:-1]:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise _wrong("one value per key", path, where, "remove one of the two assignments")
        if isinstance(node.get(keys[-1]), dict):
            raise _wrong("one value per key", path, where, "remove it, or the assignments below it")
        node[keys[-1]] = _plain(value)
    return out


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of differences."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _wrong("a TOML file that can be read", error.strerror, str(path), "check the path") from error
    except ValueError as error:  # the file is not UTF-8, or no file can have this path
        raise _wrong("a file in UTF-8", str(error), str(path), "correct the file, or check the path") from error
    return plain.toml(text, str(path))
