"""``python -m gapless`` is the ``gapless`` command, so that ``accelerate launch -m gapless`` works."""

from gapless.cli import main

if __name__ == "__main__":
    main()
