#!/usr/bin/env bash
# What a KV cache of fp8 is worth with the attention that shares the prefix.
#
#     bash experiments/h200/fp8_kv.sh OUT kernels    # eight minutes: right numbers on this card, share of the bandwidth by tuning
#     bash experiments/h200/fp8_kv.sh OUT speed      # five minutes: three starts, bf16 and fp8 in turn; with BEFORE=FOLDER another
#                                                    # checkout of this project beside them, which the ratios are then over
#     bash experiments/h200/fp8_kv.sh OUT answers    # two minutes: what the judge says of both, on the embedded model
#
# OUT gets a log of each part and the JSON files. The exit code is the number of parts that failed.
set -u
cd "$(dirname "$0")/../.."
out=$(realpath -m "$1") half=$2
model=${MODEL:-/tmp/random_model}
mkdir -p "$out"; rm -f "$out/parts"
export PYTHONPATH=$PWD:${PYTHONPATH:-}
part() { local began=$SECONDS name=$1; shift; "$@" > "$out/$name.log" 2>&1; echo "$? $name: exit code, $((SECONDS - began)) s" | tee -a "$out/parts"; tail -n "${LINES_SHOWN:-24}" "$out/$name.log"; }
case $half in
kernels)
  part numbers python3 -m pytest tests/test_shared_prefix.py -k "formula or half or cut or every_number" -q -p no:cacheprovider
  part engines python3 -m pytest tests/test_gpu.py -k "shared_prefix or formula or cuda_graph" -q -p no:cacheprovider
  part bandwidth python3 experiments/speed/attention_bandwidth.py out="$out" --tunings all --budget 240 ;;
speed)
  [ -e "$model/config.json" ] || python3 experiments/speed/random_model.py "$model"
  rows=d.batch,k.batch over=d.batch more=()
  if [ -n "${BEFORE:-}" ]; then rows+=,l.batch over=l.batch more=(--before "$BEFORE"); fi
  part speed python3 experiments/speed/starts.py out="$out" model="$model" --starts 3 --over "$over" --only "$rows" "${more[@]}" \
    --engine vllm_hopper --kv-gib 26 --repeats 5 --budget 95 ;;
answers)
  part answers python3 experiments/speed/same_answers.py --first quantization=none --second quantization=fp8_kv engine=vllm_hopper \
    engine.args.gpu_memory_utilization=0.05 +engine.args.kv_cache_memory_bytes=8589934592 prompt=structured ;;
*) echo "kernels, speed or answers, not $half" >&2; exit 2 ;;
esac
exit "$(grep -vc '^0 ' "$out/parts")"
