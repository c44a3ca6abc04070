#!/usr/bin/env bash
# Installs this copy of the code on all hosts of a Cloud TPU VM or pod slice, and trains there:
#
#   launch/tpu_vm.sh NAME ZONE PROJECT CONFIG.py --workdir RUN [flags of dslstm train]
#
# CONFIG.py is a path within the repository. RUN and the corpus are absolute paths on the hosts; where there are several
# hosts, on a file system that all of them see (Filestore). An earlier run is told to save and end, and the same command goes
# on with it, after a preemption too. The output is shown as long as this script runs: start it under tmux.
# DRY_RUN=1 prints the commands and starts nothing.
set -eu
cd "$(dirname "$0")/.."

if (($# < 4)) || [[ $4 == /* || ! -f ${4%:*} ]]; then
  echo "usage: launch/tpu_vm.sh NAME ZONE PROJECT CONFIG.py --workdir RUN [flags of dslstm train]" >&2
  exit 2
fi
name=$1
where=(--zone "$2" --project "$3" --worker=all)
shift 3
train=(dslstm train "$@" --parallel.coordinator auto)
[[ " $* " == *" --resume "* ]] || train+=(--resume)

run() {
  if [[ ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

archive=dslstm_jax.tar.gz
if [[ ! ${DRY_RUN:-} ]]; then
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' EXIT
fi
# uv brings the Python that the hosts' own is too old for. One process of a host at a time may hold its chips.
install="mkdir -p dslstm_jax && tar -xzf dslstm_jax.tar.gz -C dslstm_jax && cd dslstm_jax \
&& python3 -m pip install --user --quiet uv && export PATH=\$PWD/.venv/bin:\$HOME/.local/bin:\$PATH \
&& { [ -d .venv ] || uv venv --quiet --python 3.12; } && uv pip install --quiet -e '.[tpu]'"
stop="pkill -TERM -x dslstm; while pgrep -x dslstm >/dev/null; do sleep 1; done"

run tar -czf "$archive" pyproject.toml README.md LICENSE dslstm_jax configs "${1%:*}"
run gcloud compute tpus tpu-vm scp "$archive" "$name:dslstm_jax.tar.gz" "${where[@]}"
run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command "$stop"
run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command "$install && $(printf '%q ' "${train[@]}")"
