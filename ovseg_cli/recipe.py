"""Recipes: one flat YAML file a system, checked against the signatures that it fills."""

import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from .errors import RecipeError

T = TypeVar("T")

SECTIONS = (
    "artifacts",
    "clip",
    "proposer",
    "mask_encoder",
    "in_vocabulary",
    "vocabulary",
    "dataset",
    "shapes",
    "framing",
    "classification",
    "inference",
    "train_clip",
    "train_proposals",
    "distill",
    "mine_captions",
    "tune_clip",
    "evaluate",
    "targets",
)
MAX_BYTES = 1_000_000
RANGE_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    Attributes:
        name: what it was asked for by, for messages.
        seed: the seed of everything random.
        sections: options by section name; a section that is not named is empty.
    """

    name: str
    seed: int = 0
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Any]:
        """The options of a section, a copy.

        Raises:
            ValueError: there is no section of that name in any recipe.
        """
        if name not in SECTIONS:
            raise ValueError(f"no recipe section {name!r}")
        return dict(self.sections.get(name, {}))

    def to_yaml(self) -> str:
        """The whole recipe as YAML that `load_recipe` reads back."""
        return yaml.safe_dump({"seed": self.seed, **self.sections}, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """YAML without aliases, and without two equal keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise RecipeError("aliases (*name) are not allowed in a recipe; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise RecipeError(f"{key!r} stands twice in the block at line {line}; keep one")
        return super().construct_mapping(node, deep=deep)


def recipes_folder() -> Path:
    """Where the shipped recipes are: inside the installed package, or in the checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def shipped_recipes() -> list[str]:
    """The names of the shipped recipes, such as `tiny/masqclip`."""
    folder = recipes_folder()
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file that a recipe's name or path stands for.

    Raises:
        RecipeError: there is no such file and no shipped recipe of that name.
    """
    if Path(name).suffix in (".yaml", ".yml") or Path(name).is_file():
        if Path(name).is_file():
            return Path(name)
        raise RecipeError(
            f"{name}: no such recipe file; shipped are {', '.join(shipped_recipes())}"
        )
    path = recipes_folder() / f"{name}.yaml"
    if name in shipped_recipes():
        return path
    raise RecipeError(f"{name}: no such recipe{_suggestion(name, shipped_recipes())}")


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by name or path and applies `section.option=value` overrides.

    Raises:
        RecipeError: the file is missing, is no YAML, or holds an unknown section.
    """
    path = recipe_path(name)
    return parse_recipe(_read(path), name=name, overrides=overrides)


def parse_recipe(text: str, *, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its text; `name` is for messages.

    Raises:
        RecipeError: the text is no YAML mapping, or holds an unknown section.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"{name}: not a recipe in YAML ({reason})") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{name}: a recipe is a mapping of sections, found {_kind(content)}")
    for override in overrides:
        _apply(content, override)
    return _checked(content, name)


def options_for(
    section: str, options: dict[str, Any], target: Callable[..., Any], *, given: Sequence[str] = ()
) -> dict[str, Any]:
    """A section's options, of the types that the target's signature asks for.

    Args:
        section: its name, for messages.
        options: what the recipe says.
        target: a function or class; its keyword parameters are the schema.
        given: parameters that the caller passes itself, which no recipe can set.

    Raises:
        RecipeError: an option is unknown, missing, or of another type.
    """
    parameters = {
        key: p
        for key, p in inspect.signature(target).parameters.items()
        if key not in given and p.kind is not p.VAR_KEYWORD and key != "self"
    }
    hints = typing.get_type_hints(
        target.__init__ if inspect.isclass(target) else target, include_extras=True
    )
    for key in options:
        if key not in parameters:
            raise RecipeError(
                f"[{section}] {key}: {_label(target)} has no such option"
                f"{_suggestion(str(key), list(parameters))}"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise RecipeError(f"[{section}] {key} is missing; {_label(target)} needs it")
    return {
        key: _coerced(section, key, value, hints.get(key, Any)) for key, value in options.items()
    }


def build(section: str, options: dict[str, Any], target: Callable[..., T], **parts: Any) -> T:
    """Calls the target with a section's options and with parts that are built already.

    Raises:
        RecipeError: an option is unknown, missing, or of another type.
    """
    return target(**options_for(section, options, target, given=tuple(parts)), **parts)


def choose(section: str, options: dict[str, Any], table: dict[str, T]) -> tuple[T, dict[str, Any]]:
    """The entry of a table that the section's `name` asks for, and the section's other options.

    Raises:
        RecipeError: `name` is missing or not in the table.
    """
    rest = dict(options)
    name = rest.pop("name", None)
    if name is None:
        raise RecipeError(f"[{section}] name is missing; one of {', '.join(table)}")
    if not isinstance(name, str) or name not in table:
        raise RecipeError(
            f"[{section}] name: there is no {name!r}{_suggestion(str(name), list(table))}"
        )
    return table[name], rest


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: larger than a recipe can be ({MAX_BYTES} bytes)")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: write it as section.option=value")
    section, dot, option = key.strip().partition(".")
    try:
        parsed = yaml.load(value, Loader=_Loader)
    except (yaml.YAMLError, RecipeError) as error:
        raise RecipeError(f"--set {override}: the value is no YAML") from error
    if not dot:
        content[section] = parsed
        return
    if not isinstance(content.setdefault(section, {}), dict):
        raise RecipeError(f"--set {override}: {section} is not a section")
    content[section] = {**content[section], option: parsed}


def _checked(content: dict[str, Any], name: str) -> Recipe:
    for key, value in content.items():
        if key == "seed":
            continue
        if key not in SECTIONS:
            raise RecipeError(
                f"{name}: there is no section {key!r}{_suggestion(str(key), SECTIONS)}"
            )
        if value is not None and not isinstance(value, dict):
            raise RecipeError(
                f"{name}: section {key} is a mapping of options, found {_kind(value)}"
            )
    seed = _coerced(name, "seed", content.pop("seed", 0), Seed)
    return Recipe(name, seed, {key: dict(value or {}) for key, value in content.items()})


def _coerced(section: str, key: str, value: Any, hint: Any) -> Any:
    wanted = (
        f"[{section}] {key}: expected {_hint_name(hint)}, found {json.dumps(value, default=str)}"
    )
    if isinstance(value, bool) and not _allows(hint, bool):
        raise RecipeError(f"{wanted}; put it in quotes if it is a word")
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise RecipeError(_out_of_range(section, key, error) or wanted) from error


def _out_of_range(section: str, key: str, error: ValidationError) -> str | None:
    found = next((one for one in error.errors() if one["type"] in RANGE_ERRORS), None)
    if found is None:
        return None
    bound = found["msg"].removeprefix("Input should be ")
    return f"[{section}] {key}: {json.dumps(found['input'], default=str)} is not {bound}"


def _allows(hint: Any, kind: type) -> bool:
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(m in (kind, Any) or typing.get_origin(m) in (dict,) for m in members)


def _hint_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(value) for value in arguments)
    if origin is tuple and arguments[1:] == (...,):
        return f"a list of {_hint_name(arguments[0])}"
    if origin is Annotated:
        return _hint_name(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return " | ".join(_hint_name(member) for member in arguments)
    if hint is types.NoneType:
        return "None"
    return getattr(hint, "__name__", str(hint)) if not arguments else str(hint)


def _label(target: Any) -> str:
    return f"'{getattr(target, '__name__', target)}'"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
