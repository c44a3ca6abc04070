#!/usr/bin/env bash
# Tries launch/slurm.sbatch on a SLURM cluster of this machine alone: two tasks train the quickstart, are told to save and
# end after the first epoch, go on, are requeued after the third, go on again and come to the end. As root, on Debian:
#
#   apt-get install slurm-wlm munge && tests/manual/slurm_trial.sh
#
# Overwrites /etc/slurm/slurm.conf. `dslstm` must be on PATH.
set -eu
cd "$(dirname "$0")/../.."

mkdir -p /etc/slurm /run/munge /var/lib/slurm/state /var/lib/slurm/d
cat >/etc/slurm/slurm.conf <<END
ClusterName=trial
SlurmctldHost=$(hostname)
SlurmUser=root
AuthType=auth/munge
# A requeued job waits for as long as this.
AuthInfo=cred_expire=10
StateSaveLocation=/var/lib/slurm/state
SlurmdSpoolDir=/var/lib/slurm/d
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
# Without control groups, which containers lack.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=$(hostname) CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
END
if ! sinfo >/dev/null 2>&1; then
  chown munge: /run/munge
  munge -n >/dev/null 2>&1 || su -s /bin/bash munge -c /usr/sbin/munged
  slurmctld && slurmd && sleep 2
fi

folder=$(mktemp -d)
touch "$folder/log"
job=$(JAX_PLATFORMS=cpu sbatch --parsable --output="$folder/log" --ntasks-per-node=2 launch/slurm.sbatch \
  configs/quickstart.py --workdir "$folder/run" --training.epochs 4)
await() { # until the log has $2 lines that start with $1
  until (($(grep -c "^$1" "$folder/log" 2>/dev/null || true) >= $2)); do
    squeue --noheader --job "$job" | grep -q . || { cat "$folder/log" && exit 1; }
    sleep 1
  done
  echo "$(date +%T) $1"
}
await "epoch 1/" 1 && scancel --signal=TERM "$job"
await "stopped" 1
await "resumed" 1
await "epoch 3/" 1 && scontrol requeue "$job"
await "resumed" 2
while squeue --noheader --job "$job" 2>/dev/null | grep -q .; do sleep 1; done
cat "$folder/log"
scontrol show job "$job" | grep -E "JobState|Restarts"
scontrol show job "$job" | grep -q JobState=COMPLETED
