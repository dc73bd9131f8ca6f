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

# Ports of this allocation's own: nodes may be shared.
port=$((20000 + SLURM_JOB_ID % 10000))
dashboard=$((port + 10000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# One token for the allocation: Ray's ports are open to all who can reach the nodes.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

# srun does not inherit --cpus-per-task, and Ray would count the machine's cores.
step=(srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")
"${step[@]}" --nodelist="$head" ray start --head --block --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" &
head_pid=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$dashboard") 2>/dev/null; do
  kill -0 "$head_pid" || { echo "Ray's head did not start" >&2; exit 1; }
  sleep 1
done
for node in "${nodes[@]:1}"; do
  "${step[@]}" --nodelist="$node" ray start --block --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" &
done
sed "s|http://127.0.0.1:8265|http://127.0.0.1:$dashboard|" cluster.yaml >"cluster.$SLURM_JOB_ID.yaml"
# Slurm's notice before the end of the allocation, or scancel: what is committed stays.
trap 'loco-sweep cancel "cluster.$SLURM_JOB_ID.yaml" || true; kill "$head_pid"' TERM

loco-sweep submit "cluster.$SLURM_JOB_ID.yaml" --wait &
wait $!
