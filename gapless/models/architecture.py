"""Architectures, by open_clip's name or from a configuration, checked before they are built, and their tokenizers."""

import difflib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer
from torch import nn

from gapless.errors import ConfigError, DataError
from gapless.models.clip import CONTEXT_LENGTH, Tokenizer
from gapless.models.weights import line
from gapless.run_folder import CLIP_CONFIG

KEY = "model.architecture"
_SIZES = {
    "": ("embed_dim",),
    "vision_cfg": ("image_size", "patch_size", "width", "head_width", "layers"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
}
"""Keys of an architecture that are sizes, by the part that they belong to."""
_DEFAULTS = {
    "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 768, "head_width": 64},
    "text_cfg": {"width": 512, "heads": 8},
}
"""open_clip's own sizes, where an architecture leaves them out and others must fit them."""


def known_name(name: str) -> str:
    """open_clip's spelling of a model's name: ViT-B/32 and ViT-L/14@336px are OpenAI's of ViT-B-32 and ViT-L-14-336.

    Raises:
        ConfigError: no such model; the line has the nearest name.
    """
    spelled = name.replace("/", "-").replace("@", "-").removesuffix("px")
    for candidate in (name, spelled):
        if open_clip.get_model_config(candidate) is not None:
            return candidate
    known = {model.lower(): model for model in open_clip.list_models()}
    nearest = difflib.get_close_matches(spelled.lower(), known, n=1)
    hint = f"did you mean {known[nearest[0]]}?" if nearest else "open_clip.list_models() names them all"
    raise ConfigError(f"model.name: open_clip has no model {name!r}; {hint}")


def check_architecture(tree: Mapping[str, Any]) -> None:
    """Refuse sizes that no model can have.

    Raises:
        ConfigError: names the key.
    """
    for part, names in _SIZES.items():
        config = tree.get(part, {}) if part else tree
        if not isinstance(config, Mapping):
            _refuse(part, config, "it must be a mapping of keys to values")
        for name in names:
            sizes = config.get(name)
            for size in _sides(sizes):
                least = 0 if name == "layers" else 2 if name == "context_length" else 1
                if size is not None and (not isinstance(size, int) or size < least):
                    _refuse(".".join(filter(None, (part, name))), sizes, f"it must be at least {least}")
    vision, text = (_DEFAULTS[part] | tree.get(part, {}) for part in ("vision_cfg", "text_cfg"))
    if not text.get("hf_model_name") and text["width"] % text["heads"]:
        _refuse("text_cfg.heads", text["heads"], f"it must divide the width, {text['width']}")
    if not vision.get("timm_model_name") and not isinstance(vision.get("layers"), list | tuple):
        heads = vision["width"] // vision["head_width"]
        if heads < 1 or vision["width"] % heads:
            _refuse("vision_cfg.head_width", vision["head_width"], f"it must divide the width, {vision['width']}")
        least = min(_sides(vision["image_size"]))
        if max(_sides(vision["patch_size"])) > least:
            _refuse("vision_cfg.patch_size", vision["patch_size"], f"an image has {least} pixels on a side")


def _refuse(place: str, value: Any, reason: str) -> None:
    raise ConfigError(f"{KEY}.{place}: {value!r} does not work, {reason}")


def _sides(size: Any) -> Sequence[int]:
    return size if isinstance(size, list | tuple) else [size]


def with_own_tower(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture with what a text tower of transformers needs: folders found from anywhere, a context that fits.

    Raises:
        DataError: the tower's configuration is missing.
    """
    text = dict(tree.get("text_cfg", {}))
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key) and Path(text[key]).is_dir():
            text[key] = str(Path(text[key]).resolve())
    if text.get("hf_model_name") and "context_length" not in text:
        text["context_length"] = min(CONTEXT_LENGTH, _positions(text["hf_model_name"]))
    return {**tree, "text_cfg": text}


def _positions(name: str) -> int:
    """Tokens that a tower of transformers has positions for."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise ConfigError(f'{KEY}.text_cfg.hf_model_name needs transformers: pip install "gapless[caption]"') from None
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{KEY}.text_cfg.hf_model_name: {name} cannot be loaded ({line(error)})") from None
    positions: int = getattr(config, "max_position_embeddings", None) or CONTEXT_LENGTH
    # RoBERTa counts positions from behind the padding token.
    return positions - config.pad_token_id - 1 if "roberta" in config.model_type else positions


def create_clip(
    architecture: Mapping[str, Any],
    preprocess: Mapping[str, Any] | None = None,
    custom_text: bool = False,
    base_weights: bool = True,
    **overrides: Any,
) -> nn.Module:
    """open_clip's model of an architecture, without weights of CLIP.

    Args:
        architecture: open_clip's model_cfg.
        preprocess: open_clip's preprocess_cfg; what it leaves out is OpenAI's.
        custom_text: whether the text tower is a module of its own.
        base_weights: whether a tower of transformers or timm may begin with the weights that its configuration names.
        overrides: of the architecture's first level.
    """
    text, vision = (architecture.get(part, {}) for part in ("text_cfg", "vision_cfg"))
    with tempfile.TemporaryDirectory() as folder:
        tree = {"model_cfg": dict(architecture), "preprocess_cfg": dict(preprocess or {})}
        (Path(folder) / CLIP_CONFIG).write_text(json.dumps(tree))
        clip = open_clip.create_model(
            f"local-dir:{folder}",
            load_weights=False,
            force_custom_text=custom_text,
            pretrained_text=base_weights and bool(text.get("hf_model_pretrained", True)),
            pretrained_image=base_weights and bool(vision.get("timm_model_pretrained", False)),
            **overrides,
        )
    decoder = getattr(clip, "text_decoder", None)
    if decoder is not None:  # open_clip leaves a CoCa's as the memory was, NaN included
        nn.init.normal_(decoder.text_projection, std=decoder.text_projection.shape[0] ** -0.5)
    return clip


def build_tokenizer(architecture: Mapping[str, Any], name: str, folder: Path | None = None) -> Tokenizer:
    """The tokenizer of an architecture.

    Args:
        architecture: open_clip's model_cfg.
        name: what messages call the model, and open_clip's name of it if it has one.
        folder: where the files of a tokenizer of transformers lie; None for where the architecture says.

    Raises:
        DataError: its files are missing, which weights do not hold.
    """
    text = architecture.get("text_cfg", {})
    named = text.get("hf_tokenizer_name")
    try:
        if named:
            return HFTokenizer(
                str(folder or named),
                context_length=text.get("context_length", CONTEXT_LENGTH),
                tokenizer_mode=text.get("tokenizer_mode"),
                **text.get("tokenizer_kwargs", {}),
            )
        if open_clip.get_model_config(name) is not None:
            return open_clip.get_tokenizer(name)
        given = text.get("tokenizer_kwargs", {})
        return open_clip.SimpleTokenizer(context_length=text.get("context_length", CONTEXT_LENGTH), **given)
    except ImportError as error:
        raise ConfigError(
            f'model.name: the tokenizer of {name} needs a package ({line(error)}): pip install "gapless[caption]"'
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        where = f"{folder} has no usable files of it" if folder else f"{named or 'its vocabulary'} cannot be loaded"
        raise DataError(
            f"model.name: the tokenizer of {name} is missing: {where} ({line(error)}); weights do not hold it. Without "
            f"a network put the files of {named} (tokenizer.json, tokenizer_config.json) beside "
            f"{CLIP_CONFIG} and the weights, and give that folder as model.name=local-dir:FOLDER"
        ) from None
