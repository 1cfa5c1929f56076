#!/usr/bin/env bash
# Measures `aluco bench` against llama.cpp's own llama-bench, which is built from the same sources with the same flags.
#
#   benches/compare-llama-bench.sh [OPTIONS] MODEL...
#
#   -p LIST, -n LIST, -d LIST   tests, as for both programs      (512, 128, 0)
#   -t N                        threads                          (one per physical core that this process may use)
#   -r N                        repetitions in each round        (3)
#   --rounds N                  rounds; in each, both programs run, the order alternating    (5)
#   --worker NAME               worker as for scripts/build-worker.sh                        (cpu)
#   --output FILE               where the JSON goes     (TARGET/compare-llama-bench.json)
#   --check                     exit status 1 if Aluco reaches less than 0.98 of llama-bench in any test
#   -- ...                      further options, given to both programs as they are
#
# A machine's speed drifts by more than the programs differ. So they take turns, and medians over all repetitions are compared.
# ALUCO and LLAMA_BENCH name other binaries than those that are built here.
set -euo pipefail

here=$(realpath -- "${BASH_SOURCE[0]%/*}")
scripts=$here/../scripts
say() { printf '%s\n' "$*" >&2; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

n_prompt=512
n_gen=128
n_depth=0
threads=
repetitions=3
rounds=5
worker=cpu
output=
check=
models=()
while (($# > 0)); do
    case $1 in
        -p) n_prompt=$2; shift ;;
        -n) n_gen=$2; shift ;;
        -d) n_depth=$2; shift ;;
        -t) threads=$2; shift ;;
        -r) repetitions=$2; shift ;;
        --rounds) rounds=$2; shift ;;
        --worker) worker=$2; shift ;;
        --output) output=$2; shift ;;
        --check) check=yes ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) say "compare-llama-bench: unknown option $1"; usage >&2; exit 2 ;;
        *) models+=("$1") ;;
    esac
    shift
done
((${#models[@]} > 0)) || { usage >&2; exit 2; }
[[ $worker != native ]] || worker=cpu-native

target=$("$scripts/target-dir.sh")
aluco=${ALUCO:-$target/release/aluco}
[[ -x $aluco ]] || { say "compare-llama-bench: $aluco is missing; run \`make build\` first"; exit 1; }
llama_bench=${LLAMA_BENCH:-$("$scripts/build-llama-bench.sh" "$worker")}
output=${output:-$target/compare-llama-bench.json}

# The programs count cores differently, so both are told.
threads=${threads:-$(python3 - <<'PYTHON'
import os, pathlib

def core(cpu):
    topology = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return tuple((topology / name).read_text() for name in ("physical_package_id", "core_id"))
    except OSError:
        return cpu

print(len({core(cpu) for cpu in os.sched_getaffinity(0)}))
PYTHON
)}

results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT

# measure PROGRAM MODEL_INDEX ROUND
measure() {
    local options=(-p "$n_prompt" -n "$n_gen" -d "$n_depth" -t "$threads" -r "$repetitions" "${@:4}") model=${models[$2]}
    local file=$results/$2.$3.$1.json command
    case $1 in
        llama-bench) command=("$llama_bench" -m "$model" -o json "${options[@]}") ;;
        aluco) command=("$aluco" bench "$model" --json --worker "$target/release/aluco-worker-$worker" "${options[@]}") ;;
    esac
    if ! "${command[@]}" >"$file" 2>"$results/log"; then
        cat -- "$results/log" >&2
        say "compare-llama-bench: failed: ${command[*]}"
        exit 1
    fi
}
for ((round = 1; round <= rounds; round++)); do
    turns=(llama-bench aluco)
    ((round % 2)) || turns=(aluco llama-bench)
    for model in "${!models[@]}"; do
        say "round $round of $rounds: ${models[model]##*/}"
        for program in "${turns[@]}"; do
            measure "$program" "$model" "$round" "$@"
        done
    done
done

python3 - "$results" "$output" "$worker" "$rounds" "$check" "${models[@]}" <<'PYTHON'
import json, pathlib, statistics, sys

results, output, worker, rounds, check, *models = sys.argv[1:]
REQUIRED = 0.98


def read(model, round, program):
    """Tests of one run by what they measure; repetitions as tokens per second."""
    records = json.loads(pathlib.Path(results, f"{model}.{round}.{program}.json").read_text())
    tests = {(r["n_prompt"], r["n_gen"], r["n_depth"]): r for r in records}
    if len(tests) != len(records):
        sys.exit("compare-llama-bench: the same test twice in one run: give single values after --")
    return tests


def name(n_prompt, n_gen, n_depth):
    parts = [f"pp{n_prompt}"] * bool(n_prompt) + [f"tg{n_gen}"] * bool(n_gen)
    return "+".join(parts) + (f" @ d{n_depth}" if n_depth else "")


def summary(runs):
    """Median over all repetitions, and half the distance between the quartiles in percent of it."""
    samples = [sample for run in runs for sample in run["samples_ts"]]
    median = statistics.median(samples)
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [median] * 3
    return {"median_ts": median, "spread_percent": 50 * (quartiles[2] - quartiles[0]) / median, "samples_ts": samples}


rows, any_run = [], {}
for index, model in enumerate(models):
    runs = {p: [read(index, round, p) for round in range(1, int(rounds) + 1)] for p in ("llama-bench", "aluco")}
    for test in runs["llama-bench"][0]:
        theirs, ours = ([run[test] for run in runs[p]] for p in ("llama-bench", "aluco"))
        any_run = theirs[0]
        theirs_summary, ours_summary = summary(theirs), summary(ours)
        rows.append({
            "model": pathlib.Path(model).name,
            "test": name(*test),
            "llama_bench": theirs_summary,
            "aluco": ours_summary,
            "ratio": ours_summary["median_ts"] / theirs_summary["median_ts"],
            "ratio_by_round": [
                statistics.median(our["samples_ts"]) / statistics.median(their["samples_ts"])
                for our, their in zip(ours, theirs)
            ],
        })

facts = {key: any_run.get(key) for key in ("build_commit", "build_number", "cpu_info", "n_threads", "test_time")}
report = {"worker": worker, "rounds": int(rounds), "repetitions": len(any_run["samples_ts"]), **facts, "results": rows}
pathlib.Path(output).write_text(json.dumps(report, indent=2) + "\n")


def speed(part):
    return f"{part['median_ts']:9.2f} ±{part['spread_percent']:5.1f}%"


width = max(len(row["model"]) for row in rows)
tests = max(10, *(len(row["test"]) for row in rows))
print(f"{facts['cpu_info']}, {facts['n_threads']} threads, worker {worker}, "
      f"{rounds} rounds of {report['repetitions']}; tokens/s, medians, ± half the interquartile range")
print()
print(f"{'model':<{width}}  {'test':<{tests}}  {'llama-bench':>17}  {'aluco':>17}  {'ratio':>5}  by round")
for row in rows:
    by_round = row["ratio_by_round"]
    print(f"{row['model']:<{width}}  {row['test']:<{tests}}  {speed(row['llama_bench'])}  {speed(row['aluco'])}  "
          f"{row['ratio']:.3f}  {min(by_round):.3f}-{max(by_round):.3f}")
print(f"\nAll samples: {output}")

slow = [f"{row['model']} {row['test']}" for row in rows if row["ratio"] < REQUIRED]
if check and slow:
    sys.exit(f"compare-llama-bench: below {REQUIRED} of llama-bench: {', '.join(slow)}")
PYTHON
