"""A run's checkpoint by its name, for verbs that score or export one."""

from pathlib import Path

from gapless.errors import ConfigError, DataError
from gapless.run_folder import CHECKPOINTS, STATE_FILE


def named_checkpoint(run: Path, name: str) -> Path:
    """The folder of a checkpoint, links followed within checkpoints/.

    Args:
        run: folder of a run.
        name: best, latest or step_....

    Raises:
        ConfigError: the run is no folder.
        DataError: there is no such checkpoint, or only a part of it.
    """
    from gapless.engine.resume import find_checkpoint

    if not run.is_dir():
        raise ConfigError(f"checkpoint: {run} is not the folder of a run")
    folder = run / CHECKPOINTS
    checkpoint = find_checkpoint(folder, name) if name and Path(name).name == name else None
    if checkpoint is None:
        there = sorted(p.name for p in folder.glob("[!.]*") if (p / STATE_FILE).is_file())
        raise DataError(f"{run} has no checkpoint {name!r} (it has {', '.join(there) or 'none'})")
    return folder / checkpoint.name
