"""Captioners of a run's checkpoints as folders of their own."""

from pathlib import Path

from gapless.decode.captions.captioner import load_captioner, save_captioner
from gapless.engine.resume import find_checkpoint
from gapless.errors import DataError
from gapless.run_folder import CHECKPOINTS


def export_captioner(run: Path, name: str, output: Path) -> Path:
    """Write the captioner of a run's checkpoint as a folder that ``load_captioner`` takes.

    Args:
        run: folder of a run of gapless caption train.
        name: latest, best, or step_....
        output: the export folder.

    Returns:
        The checkpoint that was exported.

    Raises:
        DataError: no such checkpoint, or damaged files.
    """
    checkpoint = find_checkpoint(run / CHECKPOINTS, name)
    if checkpoint is None:
        names = sorted(p.name for p in (run / CHECKPOINTS).glob("*"))
        raise DataError(f"{run} has no checkpoint {name!r} (found: {', '.join(names)})")
    save_captioner(load_captioner(checkpoint), output)
    return checkpoint
