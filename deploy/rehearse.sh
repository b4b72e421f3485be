#!/usr/bin/env bash
# Rehearse a rollout and a lost pod on a real cluster, under live streams: what no test without a cluster shows.
# docs/platform.md says what it needs, and docs/status.md whether it has run.
#   deploy/rehearse.sh NAMESPACE VALUES_FILE [STREAMS]
set -euo pipefail
cd "$(dirname "$0")/.."
namespace=${1:?expected the namespace to install into, got nothing}
values=${2:?expected a file of values, such as deploy/chart/values-cpu.yaml, got nothing}
streams=${3:-20}
result=build/rehearsal.json

on() { kubectl --namespace "$namespace" "$@"; }

helm upgrade --install earshot deploy/chart --namespace "$namespace" --create-namespace \
  --values "$values" --wait --timeout 20m
# Two replicas, whatever the load asks for: one of them is to go.
on patch scaledobject earshot-replicas --type merge --patch '{"spec": {"minReplicaCount": 2}}' || true
on rollout status deployment/earshot-replicas --timeout 10m

on port-forward service/earshot 18001:8001 >build/port_forward.log 2>&1 &
forward=$!
trap 'kill "$forward" 2>/dev/null || true' EXIT
for _ in $(seq 30); do
  .venv/bin/earshot info --url localhost:18001 >/dev/null 2>&1 && break
  sleep 1
done

.venv/bin/python -m loadtest hold --url localhost:18001 --streams "$streams" --hold-s 300 \
  --p99-ms 30000 --output "$result" &
load=$!
sleep 60
echo "rollout: every replica is replaced, and drains"
on rollout restart deployment/earshot-replicas
sleep 120
echo "a replica is killed"
victim=$(on get pods --selector app.kubernetes.io/component=replica --output name | head -n 1)
on delete "$victim" --grace-period=0 --force
# Chunks wait while streams are carried on, hence the generous p99; no stream may fail, no text differ.
wait "$load" && echo "no stream has failed, and no text has changed: $result"
