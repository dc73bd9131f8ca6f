#!/bin/bash
# A sweep on a Slurm allocation: Ray is started on its nodes, the sweep is submitted, all ends with the allocation.
# The same `sbatch submit.sh` again resumes. Results must lie on S3 or on a file system that all nodes share.
#SBATCH --job-name=loco-sweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

port=6379
dashboard=8265
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# One token for the allocation: Ray's ports are open to all who can reach the nodes.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" &
head_pid=$!
sleep 20
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --block --address="$head:$port" &
done
# Slurm's notice before the end of the allocation, or scancel: what is committed stays.
trap 'loco-sweep cancel cluster.yaml || true; kill "$head_pid"' TERM

loco-sweep submit cluster.yaml --wait &
wait $!
