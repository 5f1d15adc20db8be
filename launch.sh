#!/usr/bin/env bash
# accelerate launch around the gapless command:
#   ./launch.sh [accelerate's own options] VERB [gapless arguments]
# Signals reach every process, and the exit code is gapless' own. GAPLESS_PYTHON names the Python to run; without it, it
# is that of .venv beside this file, of the gapless command on PATH, or python3.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${GAPLESS_PYTHON:-}
if [ -z "$python" ] && [ -x "$here/.venv/bin/python" ]; then python=$here/.venv/bin/python; fi
if [ -z "$python" ] && command -v gapless >/dev/null; then exec gapless launch "$@"; fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "${python:-python3}" -m gapless launch "$@"
