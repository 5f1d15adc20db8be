"""How a configuration is put together: files and arguments laid over each other, mappings key by key.

jsonargparse lays groups over each other by itself, but takes a key that holds a mapping (``loss.terms``,
``model.architecture``) as a whole. Here a nested key changes that key alone, typed as YAML reads it; an empty mapping
clears what was there, and ``--key={...}`` on the command line sets all of it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader

from gapless.config.arguments import expand
from gapless.errors import ConfigError
from gapless.run_folder import CHECKPOINTS, CONFIG_FILE

Mapping = dict[str, Any]


def lay_over(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Arguments in which every mapping stands once and whole, after all else.

    Raises:
        ConfigError: a configuration file that cannot be read.
    """
    layers = _Layers(parser)
    kept: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return [*kept, *layers.as_arguments(), word, *waiting]
        name, equals, text = word.partition("=")
        key, words = name[2:] if name.startswith("--") else "", [word]
        if layers.takes_value(key) and not equals and waiting and not waiting[0].startswith("--"):
            text = waiting.pop(0)
            words.append(text)
        if key == "config" and (equals or text):
            words = [f"--config={json.dumps(layers.lay(of_its_run(read_file(text), Path(text))), default=str)}"]
        elif parent := layers.parent_of(key):
            layers.change(parent, key[len(parent) + 1 :].split("."), _value(text, key))
            words = []
        elif key in layers.mappings:
            layers.replace(key, _value(text))
        elif key in layers.groups:
            file = isinstance(_value(text), str) and Path(text).is_file()
            words = [f"--{key}={json.dumps(layers.lay(read_file(text) if file else _value(text), f'{key}.'))}"]
        kept += words
    return [*kept, *layers.as_arguments()]


def of_its_run(tree: Any, path: Path) -> Any:
    """The tree of a file; one that lies in a run's folder is of that run, whatever the working directory is."""
    if (
        isinstance(tree, dict)
        and "output" in tree
        and path.name == CONFIG_FILE
        and (path.parent / CHECKPOINTS).is_dir()
    ):
        return tree | {"output": str(path.parent.absolute().parent)}
    return tree


class _Layers:
    """What the keys that hold mappings have come to so far."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser
        self.options = {text[2:]: each for text, each in parser._option_string_actions.items() if text[:2] == "--"}
        self.groups = {name.rpartition(".")[0] for name in self.options if "." in name}
        self.mappings = {name for name, each in self.options.items() if _is_mapping(getattr(each, "_typehint", None))}
        self.values: Mapping = {}
        self.changed: set[str] = set()

    def takes_value(self, key: str) -> bool:
        known = self.options.get(key)
        return self.parent_of(key) is not None if known is None else known.nargs != 0

    def parent_of(self, key: str) -> str | None:
        """The key that holds the mapping which a nested key lies in."""
        if key in self.options:
            return None
        return next((name for name in self.mappings if key.startswith(f"{name}.")), None)

    def lay(self, tree: Any, prefix: str = "") -> Mapping:
        """Lay a tree of a file over what was there; what is left of it holds no mapping."""
        if not isinstance(tree, dict):
            raise ConfigError(f"{prefix[:-1]}: {tree} does not work, it must be a mapping of its keys")
        left: Mapping = {}
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if key in self.mappings:
                self.values[key] = _laid(self._before(key), value)
                self.changed.add(key)
            elif key in self.groups and value is not None:
                left[name] = self.lay(value, f"{key}.")
            elif self.parent_of(key):
                raise ConfigError(f"{key}: in a file, a key inside of {self.parent_of(key)} is written nested in it")
            elif value is not None or key not in self.groups:  # a group whose keys are all commented out is null
                left[name] = value
        return left

    def replace(self, key: str, value: Any) -> None:
        """Set a mapping as a whole."""
        self.values[key] = value
        self.changed.add(key)

    def change(self, key: str, path: Sequence[str], value: Any) -> None:
        """Change one key inside a mapping."""
        for name in reversed(path):
            value = {name: value}
        self.values[key] = _laid(self._before(key), value, clears=False)
        self.changed.add(key)

    def as_arguments(self) -> list[str]:
        return [f"--{key}={json.dumps(self.values[key], default=str)}" for key in sorted(self.changed)]

    def _before(self, key: str) -> Any:
        if key not in self.values:
            default = self.parser.get_defaults().get(key)
            self.values[key] = default.as_dict() if isinstance(default, Namespace) else default
        return self.values[key]


def _is_mapping(kind: Any) -> bool:
    if get_origin(kind) is not None and get_origin(kind) is not dict:
        return any(_is_mapping(part) for part in get_args(kind))
    base = get_origin(kind) or kind
    return isinstance(base, type) and (issubclass(base, dict) or is_typeddict(base) or is_dataclass(base))


def _laid(below: Any, above: Any, clears: bool = True) -> Any:
    """A value over another: mappings key by key, all else replaces."""
    if not isinstance(below, dict) or not isinstance(above, dict) or (clears and not above):
        return above
    return below | {key: _laid(below.get(key), value) for key, value in above.items()}


def _value(text: str, key: str | None = None) -> Any:
    """What YAML reads from an argument.

    Raises:
        ConfigError: nothing, where a key is given; else it is a text.
    """
    try:
        return get_loader("yaml")(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        if key:
            raise ConfigError(f"{key}: {text[:80]} is no value of YAML, quotation marks make it a text") from error
        return text


def read_file(path: str) -> Mapping:
    """The tree of a YAML file, ``~`` and variables in its path replaced.

    Raises:
        ConfigError: no such file, or not YAML in UTF-8, or a key that stands there twice.
    """
    try:
        file = Path(expand(path))
        if not path:
            raise ValueError("the path is empty")
    except ValueError as error:
        raise ConfigError(f"config: {error}") from None
    try:
        text = file.read_text(encoding="utf-8")
        _refuse_doubles(file, text)
        tree = get_loader("yaml")(text)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ConfigError(f"config: {path} is nested too deeply") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:  # TypeError: the loader wants keys to be texts
        raise ConfigError(f"config: {path} is no YAML in UTF-8 ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config: {path} is {'empty' if tree is None else 'not a mapping of keys to values'}")
    return tree


def _refuse_doubles(file: Path, text: str) -> None:
    """YAML takes the last of two equal keys and says nothing."""
    for node in _nodes(yaml.compose(text, Loader=yaml.SafeLoader)):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for k, name in enumerate(names):
            if name in names[:k]:
                line = node.value[k][0].start_mark.line + 1
                raise ConfigError(f"config: {file}: the key {name} stands twice in one mapping (line {line})")


def _nodes(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Every mapping of a document."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
