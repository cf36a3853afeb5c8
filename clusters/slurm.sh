#!/usr/bin/env bash
# A Ray cluster on a Slurm allocation, and one harness command on it; ends with the command's exit code.
#
#   Start and submit   sbatch --nodes=4 clusters/slurm.sh sweep configs/imagenet.yaml --set results=/shared/results
#   Follow             tail -f slurm-JOB.out
#   Stop               scancel --signal=TERM --batch JOB     (trials save themselves; without the options they do not)
#
# From a checkout on a file system that all nodes see, with its .venv beside it (or PYTHON=/path/to/python). Before the
# time limit, and when Slurm preempts the job, the command gets SIGTERM, trials save themselves, and the job is put back
# into the queue: it then goes on where it was, with the same command.
# Ray's ports are random and open to the cluster's network, guarded by a token that only this job has, in a folder that
# only you may read. The dashboard answers on the first node's loopback.
#SBATCH --job-name=snn-harness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
##SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

say() { printf 'slurm.sh: %s\n' "$*" >&2; }
[ $# -gt 0 ] || { say "usage: sbatch clusters/slurm.sh sweep FILE [--set KEY=VALUE ...]"; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { say "not on a Slurm allocation; submit it with sbatch"; exit 2; }
here=${SLURM_SUBMIT_DIR:-$PWD}
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$python" ] || { say "$python: not there; submit from a checkout with .venv, or set PYTHON"; exit 2; }
ray=$(dirname "$python")/ray
patience=${RAY_START_SECONDS:-300}

# --- The token: a file in a folder that all nodes see and only this user may enter --------------------------------
umask 077
private=${HARNESS_SLURM_FOLDER:-$HOME/.snn-ray}/$SLURM_JOB_ID
mkdir -p "$private"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS
"$python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

steps=()
driver=
# shellcheck disable=SC2329  # called by traps, as is stop()
cleanup() {
    ((${#steps[@]})) && kill -TERM "${steps[@]}" 2>/dev/null
    wait "${steps[@]}" 2>/dev/null || true
    rm -rf "$private"
}
trap cleanup EXIT
# Slurm's signal may come at any time: before the command runs it ends this script, afterwards it is passed on.
asked=
# shellcheck disable=SC2329
stop() {
    asked=1
    if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null || true; else exit 143; fi
}
trap stop TERM

# --- Ray: the head on the first node, then all others ---------------------------------------------------------------
# Free ports of the machine that asks, for what would else be the same for every Ray on it.
cat > "$private/ports.py" <<'PYTHON'
import socket, sys
probes = [socket.create_server(("", 0)) for _ in range(int(sys.argv[1]))]
print(*(probe.getsockname()[1] for probe in probes))
PYTHON
cat > "$private/node.sh" <<'NODE'
# usage: node.sh RAY PYTHON FOLDER ARGUMENTS...   (one Ray node; ends when it does)
ray=$1 python=$2 folder=$3
shift 3
read -r agent agent_grpc metrics environment < <("$python" "$folder/ports.py" 4)
exec "$ray" start --block --disable-usage-stats "$@" \
    --dashboard-agent-listen-port="$agent" --dashboard-agent-grpc-port="$agent_grpc" \
    --metrics-export-port="$metrics" --runtime-env-agent-port="$environment"
NODE
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}
resources=(--num-cpus="$cpus" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
# Two jobs may share a node, and sockets need short paths.
temporary=${RAY_TEMP:-/tmp/ray-$SLURM_JOB_ID}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# HEAD_IP names the network to use where a node has several.
ip=${HEAD_IP:-$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1; exit}')}
read -r port dashboard client < <("$python" "$private/ports.py" 3)
node=(bash "$private/node.sh" "$ray" "$python" "$private")

say "Ray's head on $head ($ip:$port), ${#nodes[@]} nodes of $cpus CPUs and ${SLURM_GPUS_ON_NODE:-0} GPUs"
srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$head" "${node[@]}" --head \
    --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
    --ray-client-server-port="$client" --temp-dir="$temporary" "${resources[@]}" > "$private/head.log" 2>&1 &
steps+=($!)

# waits: until so many nodes are there; says what the nodes said where that takes too long or one of them has ended.
await() {
    local wanted=$1 end=$((SECONDS + patience)) found=0
    while ((SECONDS < end)); do
        found=$("$python" - "$ip:$port" <<'PYTHON' 2>/dev/null || echo 0
import sys
from ray._raylet import GcsClient
nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)
print(sum(node.state == 0 for node in nodes.values()))
PYTHON
        )
        ((found >= wanted)) && return
        for step in "${steps[@]}"; do
            kill -0 "$step" 2>/dev/null || break 2
        done
        sleep 1
    done
    say "$found of $wanted nodes came up within ${patience} s:"
    tail -n 20 "$private"/*.log >&2
    exit 1
}
await 1
if ((${#nodes[@]} > 1)); then
    others=$((${#nodes[@]} - 1))
    srun --nodes="$others" --ntasks="$others" --cpus-per-task="$cpus" --exclude="$head" "${node[@]}" \
        --address="$ip:$port" "${resources[@]}" > "$private/others.log" 2>&1 &
    steps+=($!)
fi
await "${#nodes[@]}"

# --- The command: its exit code is this script's --------------------------------------------------------------------
say "all nodes are up: harness $*"
cd "$here"
RAY_ADDRESS=$ip:$port RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard "$python" -m harness "$@" &
driver=$!
code=0
# `wait` also returns when a signal has been passed on, with the command still at work.
while kill -0 "$driver" 2>/dev/null; do
    code=0
    wait "$driver" || code=$?
done
if [ -n "$asked" ] && [ "$code" -eq 143 ]; then
    say "stopped and saved; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || say "not requeued: the same sbatch command goes on from here"
fi
exit "$code"
