#!/bin/sh
# Unpacks headers of TensorRT 10.14 into a folder, for the tests: no package index has NVIDIA's own.
#
#     tensorrt_headers.sh PYTHON FOLDER
set -eu
python=$1 folder=$2
[ ! -f "$folder/NvInferRuntime.h" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" kernel-lens==2.0.1
"$python" -m zipfile -e "$work"/kernel_lens-*.whl "$work/unpacked"
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv "$work/unpacked/kernel_lens/include/tensorrt" "$folder"
