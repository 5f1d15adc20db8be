#!/usr/bin/env bash
# accelerate launch around the gapless command:
#   ./launch.sh [accelerate's own options] VERB [gapless arguments]
# Signals reach every process, and the exit code is gapless' own (accelerate would turn all failures into 1).
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -x "$here/.venv/bin/accelerate" ]; then PATH="$here/.venv/bin:$PATH"; fi

verbs=" train doctor eval gap close robustness simulate caption prepare export report reproduce sweep "
launch=()
while [ $# -gt 0 ] && [[ "$verbs" != *" $1 "* ]]; do
  launch+=("$1")
  shift
done
if [ $# -eq 0 ]; then
  echo "usage: ./launch.sh [accelerate launch options] VERB [arguments]; verbs:$verbs" >&2
  exit 2
fi

# accelerate starts several CPU processes only through its multi-GPU launcher: with --cpu it would start a single one.
processes=1 kept=()
for ((i = 0; i < ${#launch[@]}; i++)); do
  case ${launch[i]} in
    --num_processes) processes=${launch[i + 1]:-1} ;;
    --num_processes=*) processes=${launch[i]#*=} ;;
  esac
  [ "${launch[i]}" = --cpu ] || kept+=("${launch[i]}")
done
if [ ${#kept[@]} -lt ${#launch[@]} ]; then
  export ACCELERATE_USE_CPU=true
  if [ "$processes" -gt 1 ]; then launch=(--multi_gpu "${kept[@]}"); fi
fi

GAPLESS_EXIT_CODE_FILE=$(mktemp)
export GAPLESS_EXIT_CODE_FILE
set -m # Ctrl-C in a terminal reaches this script alone, which passes it on once
accelerate launch --quiet ${launch[@]+"${launch[@]}"} -m gapless "$@" &
group=$!
# Only the training processes are told: the launcher would kill them after 30 seconds, saving may take longer.
forward() { pkill -"$1" -P "$group" -f 'python[^ ]* (-u )?-m gapless'; }
trap 'forward TERM' TERM
trap 'forward INT' INT
while :; do # a trapped signal interrupts wait
  wait "$group"
  code=$?
  kill -0 "$group" 2>/dev/null || break
done
if [ -s "$GAPLESS_EXIT_CODE_FILE" ]; then code=$(cat "$GAPLESS_EXIT_CODE_FILE"); fi
rm -f "$GAPLESS_EXIT_CODE_FILE"
exit "$code"
