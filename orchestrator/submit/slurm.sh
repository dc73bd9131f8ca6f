# What a job of `loco-sweep submit` on Slurm does. The script of the job sets these, and sources this file:
#   folder     folder of the job, which all nodes see
#   results    results of the sweep
#   container  words before every command of the project
#   driver     command of the driver; first: its words on the first start only
#   array      command that submits the jobs of workers, one node each; empty where the job's own nodes are used
#   name       name of the job
#   cpus, gpus, head_cpus, head_gpus, notice, retries
#   every      seconds between two looks at the jobs of workers

unset noticed stopped deserted ray drives watcher
# The driver ends before its nodes do.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Each Ray gets a folder of its own: nodes are shared, and paths of sockets must be short. Ray opens its folder to
# everybody (mode 0777), so it is inside one that its owner alone can enter. A lock says that the owner lives.
start_ray() {
  tidy
  # Mode 0700.
  temp=$(mktemp -d /tmp/loco-ray-XXXXXX) || exit 1
  exec {lock}>"$temp/owner.new"
  # It has its name only once it is locked.
  flock "$lock" && mv "$temp/owner.new" "$temp/owner"
  "${container[@]}" python -m ray.scripts.scripts start --block --temp-dir="$temp/r" --disable-usage-stats \
    --object-store-memory=200000000 --dashboard-agent-listen-port=0 "$@" >"$temp/start.log" 2>&1 &
  ray=$!
}

# Removes one's own folders whose owners were killed: nobody holds their locks.
tidy() {
  local owner of
  for owner in /tmp/loco-ray-*/owner; do
    of=${owner%/*}
    if [ -O "$of" ] && [ ! -L "$of" ] && [ -f "$owner" ]; then flock -n "$owner" rm -rf "$of"; fi
  done
}

stop_ray() {
  kill -TERM "$ray" 2>/dev/null
  await "$ray"
  leave_ray
}

# What workers have logged on this node stays in the folder of the job.
leave_ray() {
  cat "$temp"/r/session_2*/logs/worker-*.err >>"$folder/$SLURM_JOB_ID-${SLURMD_NODENAME:-node}.workers" 2>/dev/null
  rm -rf "$temp"
  exec {lock}>&-
}

# Waits for a process to its end, whatever signals come; its exit code is in $code.
await() {
  while :; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || return 0
  done
}

say() { echo "loco-sweep: $*"; }

# Writes a file that others read, whole or not at all.
note() { echo "$2" >"$folder/$1.new" && mv "$folder/$1.new" "$folder/$1"; }

# Tells whether units were committed since it was asked last under a name: who gets nowhere is not queued again.
progressed() {
  local now before
  before=$(cat "$folder/units.$1" 2>/dev/null)
  now=$("${container[@]}" python -m orchestrator.cli.main status "$results" --json |
    "${container[@]}" python -c 'import json, sys; print(json.load(sys.stdin)["units_done"])')
  note "units.$1" "${now:-unknown}"
  # Results that cannot be read say nothing; a second time they do.
  case "$now:$before" in
  :unknown) ;;
  :* | *: | *:unknown) return 0 ;;
  *) [ "$now" -gt "$before" ] && return 0 ;;
  esac
  say "no unit was committed in two jobs one after the other; this one is not queued again: is \`time\` too short?"
  return 1
}

queue_again() {
  # The number of one job of an array may be that of the array, and all of them would be meant.
  local job=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  job=${job:-$SLURM_JOB_ID}
  # It may have been cancelled since its notice.
  if [ -n "$stopped" ] || [ -e "$folder/cancelled" ]; then
    say "job $job is cancelled; it is not queued again"
    return
  fi
  trap '' TERM
  say "job $job is queued again"
  scontrol requeue "$job" && exit 0
  say "Slurm does not queue it again; \`loco-sweep submit\` resumes"
}

# --- The job that drives the sweep ---

start_cluster() {
  unset RAY_ADDRESS
  start_ray --head --port=0 --num-cpus="$head_cpus" --num-gpus="$head_gpus" --include-dashboard=false
  until [ -s "$temp/r/ray_current_cluster" ]; do
    kill -0 "$ray" 2>/dev/null || { cat "$temp/start.log"; say "Ray's head did not start"; return 1; }
    sleep 0.5
  done
  RAY_ADDRESS=$(<"$temp/r/ray_current_cluster")
  export RAY_ADDRESS
  joined=()
  if [ "${#array[@]}" -gt 0 ]; then
    scancel_workers
    rm -f "$folder/started"
    # Inside a job sbatch takes the job's own variables for wishes.
    (unset $(compgen -v SLURM_ | grep -v '^SLURM_CONF$'); "${array[@]}" >/dev/null) ||
      { say "Slurm takes no jobs from here"; return 1; }
    watch_workers &
    watcher=$!
    return 0
  fi
  local node
  for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n +2); do
    # One step per node: a node that fails takes no other along. srun does not inherit --cpus-per-task.
    srun --quiet --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="$SLURM_CPUS_PER_TASK" bash "$folder/job.sh" join &
    joined+=($!)
  done
}

scancel_workers() { scancel --name="$name-workers" --user="$(id -un)" 2>/dev/null; }

# Jobs of the array that are over do not come back: without any the driver would wait for ever.
watch_workers() {
  local left none=0
  while sleep "$every"; do
    left=$(squeue --noheader --name="$name-workers" --user="$(id -un)" 2>/dev/null) || continue
    if [ -n "$left" ]; then none=0; else none=$((none + 1)); fi
    # Once may be a slip.
    if [ "$none" -ge 2 ]; then kill -USR2 $$; return; fi
  done
}

stop_cluster() {
  [ -n "$watcher" ] && kill "$watcher" 2>/dev/null
  watcher=
  [ "${#array[@]}" -gt 0 ] && scancel_workers
  local step
  # To its steps, not to this script.
  [ "${#joined[@]}" -gt 0 ] && scancel --signal=TERM "$SLURM_JOB_ID"
  for step in "${joined[@]}"; do await "$step"; done
  stop_ray
}

run_driver() {
  [ -n "$noticed$stopped$deserted" ] && code=4 && return
  "${container[@]}" "${driver[@]}" &
  drives=$!
  await "$drives"
  drives=
}

# Slurm's notice before the time limit: what is at work ends, unless that takes too long.
on_notice() {
  noticed=yes
  say "the end of the job is near; stopping"
  stop_driver
}

on_term() {
  stopped=yes
  stop_driver
}

on_deserted() {
  deserted=yes
  say "all jobs of the array are over, and nothing computes any more; their logs say why: $folder/*_*.log"
  stop_driver
}

stop_driver() {
  [ -n "$drives" ] || return 0
  kill -TERM "$drives" 2>/dev/null
  (
    sleep $((notice * 2 / 3)); kill -TERM "$drives" || exit
    sleep $((notice / 12)); kill -KILL "$drives"
  ) 2>/dev/null &
}

drive() {
  trap on_notice USR1
  trap on_term TERM
  trap on_deserted USR2
  # Of an earlier start of this job.
  rm -f "$folder/$SLURM_JOB_ID.exit"
  # Ray's ports are open to all who can reach the node.
  export RAY_AUTH_MODE=token
  RAY_AUTH_TOKEN=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
  export RAY_AUTH_TOKEN
  [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && driver+=("${first[@]}")
  local left=$retries ended
  while :; do
    if start_cluster; then run_driver; else code=1; fi
    ended=$code
    stop_cluster
    [ -n "$noticed$stopped$deserted" ] && break
    # With any other code it died before its last word.
    case $ended in 0 | 1 | 2 | 3 | 4) break ;; esac
    [ "$left" -gt 0 ] || break
    left=$((left - 1))
    say "the driver died (exit code $ended); starting it again"
  done
  case $ended in
  0 | 1 | 2 | 3) ;;
  *)
    if [ -n "$deserted" ]; then
      ended=1
    elif [ -n "$noticed" ] && [ -z "$stopped" ] && { waits_for_nodes || progressed job; }; then
      queue_again
    fi
    ;;
  esac
  note "$SLURM_JOB_ID.exit" "$ended"
  exit "$ended"
}

# Nothing can have been committed while no job of the array has had its place.
waits_for_nodes() { [ "${#array[@]}" -gt 0 ] && [ ! -e "$folder/started" ]; }

# --- Nodes of workers ---

join() {
  trap 'stopped=yes; leave' TERM
  start_ray --address="$RAY_ADDRESS" --num-cpus="$cpus" --num-gpus="$gpus"
  # Signals may have come before it.
  [ -n "$noticed$stopped" ] && leave
  await "$ray"
  [ -n "$noticed$stopped" ] && code=0
  if [ "$code" != 0 ]; then
    cat "$temp/start.log"
    say "Ray ended by itself on ${SLURMD_NODENAME:-this node} (exit code $code)"
  fi
  leave_ray
  return "$code"
}

leave() { [ -n "$ray" ] && kill -TERM "$ray" 2>/dev/null; }

# A job of the array: at its time limit it leaves, and is queued again.
work() {
  trap 'noticed=yes; leave' USR1
  : >"$folder/started"
  # What is at work on this node may end meanwhile.
  export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=$((notice * 2 / 3))
  join
  local ended=$?
  if [ -n "$noticed" ] && [ -z "$stopped" ] && progressed "worker-$SLURM_ARRAY_TASK_ID"; then queue_again; fi
  exit "$ended"
}

case "${1:-}" in
join) join ;;
work) work ;;
*) drive ;;
esac
