#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and no network: bash KIT/run [STEP ...], about 7 minutes for all.
# Steps: base decode signatures decoder throughput engine model texts graphs. The report goes to $OUT (./gpu-report).
set -uo pipefail
kit=$(cd "$(dirname "$0")" && pwd)
export OUT=${OUT:-$PWD/gpu-report}; mkdir -p "$OUT/logs"
steps=${*:-base decode signatures decoder throughput engine model texts graphs}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
pytest=(python3 -m pytest -p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider -W default -q --no-header --tb=short -rs)
site=/tmp/rt-embed-site films=/tmp/rt-embed-bench seconds=${FILM_SECONDS:-30}
failed="" began=$SECONDS

step() {  # step NAME LIMIT COMMAND...
  local name=$1 limit=$2 start=$SECONDS status; shift 2
  case " $steps " in *" $name "*) ;; *) return;; esac
  printf '\n== %s (after %s s)\n' "$name" "$((SECONDS - began))"
  timeout -k 5 "$limit" "$@" > "$OUT/logs/$name.log" 2>&1; status=$?
  tail -n "${LINES_SHOWN:-25}" "$OUT/logs/$name.log"
  [ "$status" = 0 ] || failed="$failed $name($status)"
  printf -- '-- %s: status %s, %s s\n' "$name" "$status" "$((SECONDS - start))"
}

prepare() {
  [ -f pyproject.toml ] || { mkdir -p /tmp/rt-embed && tar -C /tmp/rt-embed -xJf "$kit/project.tar.xz" && cd /tmp/rt-embed; } || return 1
  if [ ! -e "$site/.done" ]; then
    mkdir -p "$site" && python3 -c "import tarfile; tarfile.open('$kit/site.tar.xz').extractall('$site', filter='data')" && touch "$site/.done" || return 1
  fi
  # For child processes too, to which the tests pass no PYTHONPATH; first, so that our versions win.
  local packages; packages=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  echo "import sys; '$site' in sys.path or sys.path.insert(0, '$site')" > "$packages/zz_rt_embed.pth"
  # The driver's video libraries may lie beside the linker's path.
  local library found
  for library in libnvcuvid.so.1 libnvidia-encode.so.1; do
    python3 -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null && continue
    found=$(find /usr/local/nvidia /usr/lib /usr/lib64 /opt -name "$library*" 2>/dev/null | head -1)
    [ -n "$found" ] || { echo "no $library: workers cannot decode on this GPU"; continue; }
    dirname "$found" >> /etc/ld.so.conf.d/zz-rt-embed.conf && ldconfig
    echo "$library was not on the linker's path: $found"
  done
}

stand_in() { cp -r tests/gpu/standin/. "$site/"; }

main() {
  prepare || { echo "the kit cannot be unpacked"; exit 1; }
  LINES_SHOWN=40 step base 60 python3 -m tests.gpu.base
  if [[ " $steps " =~ " decoder "|" throughput "|" model " ]]; then
    python3 -m tests.gpu.films "$site/films" "$films" "$seconds" > "$OUT/logs/films.log" 2>&1 & local making=$!
  fi
  if [[ " $steps " =~ " graphs "|" model "|" texts " ]]; then
    python3 -m tests.bench.gpu_model make /tmp/cosmos > "$OUT/logs/make.log" 2>&1 & local converting=$!
  fi
  step decode 150 "${pytest[@]}" -p xdist.plugin -n 8 tests/worker/media/gpu/test_gpu_device.py
  step signatures 60 "${pytest[@]}" tests/worker/test_gpu_signatures.py tests/worker/media/gpu/test_pixels.py
  [ -z "${making:-}" ] || wait "$making"
  LINES_SHOWN=90 step decoder 150 python3 -m tests.bench.gpu_decoder --json "$OUT/decoder.json"
  step throughput 90 python3 -m tests.bench.gpu_throughput --folder "$films" --seconds "$seconds"
  [ -z "${converting:-}" ] || wait "$converting"
  # From here on torch stands in TensorRT's place; what runs on it says nothing of TensorRT itself.
  stand_in
  step engine 150 "${pytest[@]}" tests/worker/engine/test_tensorrt.py tests/e2e/test_gpu.py
  RTEMBED_ALLOW_UNVERIFIED_MODEL=true step model 120 python3 -m tests.bench.gpu_throughput --folder "$films" --seconds "$seconds" --model /tmp/cosmos/fp16-448p
  RTEMBED_ALLOW_UNVERIFIED_MODEL=true step texts 120 python3 -m tests.gpu.text_graphs /tmp/cosmos/fp16-448p
  step graphs 150 python3 -m tests.bench.gpu_model check /tmp/cosmos --json "$OUT/graphs.json"
  printf '\nall steps: %s s; failed:%s\n' "$((SECONDS - began))" "${failed:- none}"
  [ -z "$failed" ]
}

main 2>&1 | tee "$OUT/report.txt"
exit "${PIPESTATUS[0]}"
