#!/usr/bin/env bash
# Trains in N processes of this machine, which share the batch as N machines would:
#
#   launch/local_processes.sh N CONFIG.py --workdir RUN [flags of dslstm train]
#
# The machine's GPUs (or those in CUDA_VISIBLE_DEVICES) are shared out evenly. Shown are process 0's output and, numbered,
# the error lines of the others. SIGTERM or Ctrl-C makes all save and exit 0; a second one kills them. When one fails, the
# others are killed, and its exit code is ours. DRY_RUN=1 prints the commands and starts nothing. Needs bash 5.1.
set -eu

if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local_processes.sh N CONFIG.py --workdir RUN [flags of dslstm train]" >&2
  exit 2
fi
count=$1
shift

# Below the ports that the system gives away itself, so that none of its choices is ours.
port=$((20000 + RANDOM % 10000))
while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done

devices=()
if [[ ${JAX_PLATFORMS:-} != cpu ]]; then
  visible=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true)}
  IFS=, read -ra devices <<<"$visible"
fi
share=$((${#devices[@]} / count))
if ((share * count != ${#devices[@]})); then
  echo "local_processes.sh: $count processes cannot share ${#devices[@]} GPUs evenly; set CUDA_VISIBLE_DEVICES" >&2
  exit 2
fi

# Sets `command` to that of process $1.
compose() {
  command=()
  if ((share)); then
    command+=(env "CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${devices[*]:$1 * share:share}")")
  fi
  command+=(dslstm train "${arguments[@]}" --parallel.coordinator "127.0.0.1:$port")
  command+=(--parallel.processes "$count" --parallel.process "$1")
}

arguments=("$@")
if [[ ${DRY_RUN:-} ]]; then
  for ((process = 0; process < count; process++)); do
    compose "$process"
    printf '%q ' "${command[@]}"
    echo
  done
  exit 0
fi

# Numbers the lines of process $1; Ctrl-C must not cut off its last ones.
number() {
  trap '' INT
  while IFS= read -r line; do echo "[$1] $line" >&2; done
}

running=() # process numbers by process id
stopped=
# shellcheck disable=SC2329  # the trap calls it
stop() {
  kill "-$([[ $stopped ]] && echo KILL || echo TERM)" "${!running[@]}" 2>/dev/null || true
  stopped=yes
}
trap stop INT TERM

for ((process = 0; process < count; process++)); do
  compose "$process"
  if ((process == 0)); then
    "${command[@]}" &
  else
    "${command[@]}" >/dev/null 2> >(number "$process") &
  fi
  running[$!]=$process
done

status=0
while ((${#running[@]})); do
  ended=
  wait -n -p ended "${!running[@]}" && code=0 || code=$?
  [[ ${ended:-} ]] || continue # a signal
  process=${running[$ended]}
  unset "running[$ended]"
  if ((code && !status)); then
    status=$code
    if ((${#running[@]})); then
      echo "local_processes.sh: process $process ended with exit code $code; the others are stopped" >&2
      kill -KILL "${!running[@]}" 2>/dev/null || true # they would wait for it, and cannot save without it
    fi
  fi
done
if [[ $stopped ]] && ((!status)); then
  [[ " ${arguments[*]} " == *" --resume "* ]] || arguments+=(--resume)
  echo "local_processes.sh: stopped; resume all with: $(printf '%q ' "$0" "$count" "${arguments[@]}")"
fi
exit "$status"
