#!/usr/bin/env bash
# Rehearse a rollout and the loss of a pod under live streams on a real cluster, which no other test covers.
# docs/platform.md lists the requirements, and docs/status.md says whether it has run.
#   deploy/rehearse.sh NAMESPACE VALUES_FILE [STREAMS [HOLD_S]]
# HOLD_S is the time in seconds that streams are held; the rollout has to end within it. Credentials of clients
# come from the environment, as for every load test (loadtest/README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
namespace=${1:?expected the namespace to install into, got nothing}
values=${2:?expected a file of values, such as deploy/chart/values-cpu.yaml, got nothing}
streams=${3:-40}
hold_s=${4:-600}
url=localhost:18001
replicas=deployment/earshot-replicas
mkdir -p build

on() { kubectl --namespace "$namespace" "$@"; }

helm upgrade --install earshot deploy/chart --namespace "$namespace" --create-namespace \
  --values "$values" --wait --timeout 20m
# Two replicas, whatever the load requires, because one will be killed. Without KEDA there is nothing to patch.
on patch scaledobject earshot-replicas --type merge --patch '{"spec": {"minReplicaCount": 2}}' || true
on rollout status "$replicas" --timeout 10m

kubectl --namespace "$namespace" port-forward service/earshot 18001:8001 >build/port_forward.log 2>&1 &
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for _ in $(seq 30); do
  .venv/bin/earshot info --url "$url" >/dev/null 2>&1 && break
  sleep 1
done

# During a drain, every stream continues on its replica to its end: none may fail, and no text may differ. Latency
# through `kubectl port-forward` says nothing about the service, hence the generous p99.
.venv/bin/python -m loadtest hold --url "$url" --streams "$streams" --hold-s "$hold_s" --p99-ms 5000 \
  --output build/rehearsal_rollout.json &
load=$!
sleep 60 # time to compute the reference texts and to start the first streams
echo "rollout: replacing every replica, each drains"
on rollout restart "$replicas"
on rollout status "$replicas" --timeout "${hold_s}s"
kill -0 "$load" 2>/dev/null || { echo "error: the rollout outlasted the streams; give a HOLD_S above $hold_s" >&2; exit 1; }
wait "$load"

# The streams of a replica that dies are resumed elsewhere; some of their words may differ.
victim=$(on get pods --selector app.kubernetes.io/component=replica,track=stable \
  --sort-by .metadata.creationTimestamp --output name | tail -n 1) # the newest: older ones may still be draining
echo "killing a replica: $victim"
.venv/bin/python -m loadtest resuming --url "$url" --streams "$streams" --output build/rehearsal_kill.json \
  -- kubectl --namespace "$namespace" delete "$victim" --grace-period=0 --force
echo "no stream has failed, and almost no word is missing: build/rehearsal_rollout.json, build/rehearsal_kill.json"
