#!/usr/bin/env bash
# Fills in launch/gke_jobset.yaml and starts it in kubectl's cluster:
#
#   launch/gke.sh NAME IMAGE TOPOLOGY CONFIG.py --workdir /runs/RUN [flags of dslstm train]
#
# TOPOLOGY is that of the TPU v5e slice, 2x2 (one host) to 16x16. `kubectl delete jobset NAME` saves and ends the run; the
# same command goes on with it. DRY_RUN=1 prints the JobSet and starts nothing.
set -eu

if (($# < 4)) || [[ ! $3 =~ ^([0-9]+)x([0-9]+)$ ]]; then
  echo "usage: launch/gke.sh NAME IMAGE TOPOLOGY CONFIG.py --workdir /runs/RUN [flags of dslstm train]" >&2
  exit 2
fi
name=$1 image=$2 topology=$3
hosts=$((BASH_REMATCH[1] * BASH_REMATCH[2] / 4))
shift 3

arguments=
for argument; do # as strings of YAML; $$ is Kubernetes' $
  argument=${argument//\'/\'\'}
  arguments+="'${argument//\$/\$\$}', "
done

jobset=$(<"$(dirname "$0")/gke_jobset.yaml")
jobset=${jobset//\$\{NAME\}/"$name"}
jobset=${jobset//\$\{IMAGE\}/"$image"}
jobset=${jobset//\$\{TOPOLOGY\}/"$topology"}
jobset=${jobset//\$\{HOSTS\}/"$hosts"}
jobset=${jobset//\$\{ARGUMENTS\}/"[${arguments%, }]"}

if [[ ${DRY_RUN:-} ]]; then
  echo "$jobset"
else
  kubectl apply -f - <<<"$jobset"
fi
