#!/usr/bin/env bash
# What a release of vLLM must show on a machine with two GPUs: speed beside raw vLLM, right answers, memory that does not grow.
#
#     bash experiments/h200/proof.sh OUT load       # nine minutes: three starts of the yardstick on GPU 0, a soak on GPU 1
#     bash experiments/h200/proof.sh OUT answers    # six minutes: smoke tests, starts cold and warm on GPU 0, answers on GPU 1
#
# OUT gets a log of each part and the JSON files of yardstick and starts. The exit code is the number of parts that failed.
set -u
cd "$(dirname "$0")/../.."
out=$(realpath -m "$1") half=$2
model=${MODEL:-/tmp/random_model}
mkdir -p "$out"; rm -f "$out/parts"
export PYTHONPATH=$PWD:${PYTHONPATH:-}
[ -e "$model/config.json" ] || python3 experiments/speed/random_model.py "$model"
part() { local began=$SECONDS name=$1; shift; "$@" > "$out/$name.log" 2>&1; echo "$? $name: exit code, $((SECONDS - began)) s" | tee -a "$out/parts"; }
same() { python3 experiments/speed/same_answers.py engine=vllm_hopper engine.args.gpu_memory_utilization=0.05 \
  +engine.args.kv_cache_memory_bytes=8589934592 prompt=structured "$@"; }
scheduler=(--first engine.scheduler=default --second engine.scheduler=burst)
attention=(--first engine.attention=default --second engine.attention=shared_prefix)
case $half in
load)
  CUDA_VISIBLE_DEVICES=1 part soak python3 experiments/speed/soak.py --minutes 6 --gpu &
  export CUDA_VISIBLE_DEVICES=0
  for start in 1 2 3; do
    part "yardstick_$start" python3 experiments/speed/yardstick.py out="/tmp/yardstick_$start" model="$model" --engine vllm_hopper \
      --kv-gib 26 --only a.text,b.text,d.batch,d.64,e.64 --repeats 3 --budget 180
    cp "/tmp/yardstick_$start/yardstick.json" "$out/yardstick_$start.json"
  done ;;
answers)
  python3 -m gpuqa.check experiment=h200_speed model.path="$model" > "$out/check.log" 2>&1
  (
    export CUDA_VISIBLE_DEVICES=1
    part greedy same "${scheduler[@]}" & part seeded same "${scheduler[@]}" sampling=sampled &
    part attention same "${attention[@]}" engine.scheduler=burst &
    wait
  ) &
  export CUDA_VISIBLE_DEVICES=0
  part energy python3 experiments/speed/energy_steps.py --seconds 10
  part smoke python3 -m pytest -m gpu -q -p no:cacheprovider
  part starts python3 experiments/speed/startup.py out=/tmp/startup model="$model" --cold 1 --warm 3 \
    --set engine=vllm_hopper engine.args.gpu_memory_utilization=0.5
  cp /tmp/startup/startup.json "$out/" ;;
*) echo "load or answers, not $half" >&2; exit 2 ;;
esac
wait
exit "$(grep -vc '^0 ' "$out/parts")"
