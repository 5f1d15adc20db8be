"""From class names and templates to the prompts of zero-shot classification."""

from collections.abc import Mapping, Sequence

from gapless.errors import DataError

DEFAULT_TEMPLATES = ("a photo of a {c}.",)
PLACES = ("{c}", "{}")
"""Where a class name goes: as clip_benchmark writes its templates, and as OpenAI's and open_clip's lists do."""


def fill_templates(
    class_names: Sequence[str], templates: Sequence[str] | Mapping[str, Sequence[str]]
) -> list[tuple[str, ...]]:
    """The prompts of each class: its name filled into every template, or the class's own prompts.

    A list and not a mapping by name: ImageNet has names that occur twice.

    Args:
        class_names: of all classes.
        templates: texts with ``{c}`` or ``{}`` where the name goes, or prompts by class name.

    Raises:
        DataError: a template without a place for the name, which would give every class the same prompt.
    """
    if isinstance(templates, Mapping):
        return [tuple(templates[name]) for name in class_names]
    places = [next((place for place in PLACES if place in template), None) for template in templates]
    if None in places:
        raise DataError(f"the template {templates[places.index(None)]!r} has no {{c}} where the class name goes")
    filled = [(template, str(place)) for template, place in zip(templates, places, strict=True)]
    return [tuple(template.replace(place, name) for template, place in filled) for name in class_names]
