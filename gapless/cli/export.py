"""``gapless export``: the model or the captioner of a run as a folder of its own."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gapless.cli.extras import needs_caption_extra
from gapless.errors import ConfigError
from gapless.run_folder import CAPTIONER_CONFIG, CHECKPOINTS, CLIP_CONFIG, EXPORT, LATEST


def add_export(parser: ArgumentParser) -> None:
    """What ``gapless export`` takes."""
    parser.add_argument("run", type=Path, help="Folder of a run, or of a model in open_clip's format.")
    parser.add_argument(
        "--checkpoint", type=str, default=LATEST, help="Checkpoint that is exported: latest, best or step_00000000."
    )
    parser.add_argument("--output", type=Path, default=None, help="Folder of the export; by default RUN/export.")


def run_export(arguments: Any) -> None:
    """Write the folder, and print how to use it."""
    output = arguments.output or arguments.run / EXPORT
    if any((arguments.run / CHECKPOINTS).glob(f"*/{CAPTIONER_CONFIG}")):
        needs_caption_extra()
        from gapless.decode.captions.export import export_captioner

        checkpoint = export_captioner(arguments.run, arguments.checkpoint, output)
        print(f"{checkpoint.name} exported to {output}; gapless caption eval {output} uses it")
        return
    if (arguments.run / CLIP_CONFIG).is_file():
        _export_folder(arguments.run, arguments.checkpoint, output)
        return
    from gapless.train.clip import export_checkpoint

    checkpoint = export_checkpoint(arguments.run, arguments.checkpoint, output)
    print(f"{checkpoint.name} exported to {output}; open_clip loads it as local-dir:{output}")


def _export_folder(folder: Path, checkpoint: str, output: Path) -> None:
    """Write a model that is no run, such as a snapshot of the hub, in the form of an export."""
    from gapless.models import load_export, save_export

    if checkpoint != LATEST:
        raise ConfigError(f"--checkpoint: {folder} is a single model, leave {checkpoint!r} out")
    save_export(*load_export(folder), output)
    print(f"{folder} exported to {output}; open_clip loads it as local-dir:{output}")
