#!/usr/bin/env bash
# Set up an environment on a GPU machine without network, from the pieces that `make gpu-bundle` wrote.
#
#   loadtest/gpu/env.sh BUNDLE ENV [TORCH_PYTHON]
#
# BUNDLE        folder with bundle.tar.xz.NN and SHA256SUMS; may be filled over several transfers
# ENV           folder to create; ENV/bin/python3 then has the bundled packages and, after them, torch
# TORCH_PYTHON  the Python that has torch (default: python3), version 3.12 like the bundle
set -euo pipefail
bundle=$1 env=$2 torch_python=${3:-python3}

found=$("$torch_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $found == 3.12 ]] || { echo "error: $torch_python is Python $found, expected 3.12" >&2; exit 2; }
"$torch_python" -c 'import torch' || { echo "error: $torch_python has no torch" >&2; exit 2; }
(cd "$bundle" && sha256sum --quiet -c SHA256SUMS) ||
  { echo "error: pieces are missing or damaged in $bundle; copy them again" >&2; exit 2; }

mkdir -p "$env"
env=$(cd "$env" && pwd)
cat "$bundle"/bundle.tar.xz.[0-9][0-9] | tar -xJ -C "$env"

# The stub loads Python as a shared library, which the bundled Python has.
export LD_LIBRARY_PATH="$env/python/lib"
"$env/python/bin/python3" -m venv --without-pip "$env/venv"
packages="$env/venv/lib/python3.12/site-packages"
# In this order, bundled packages take precedence over the machine's (numpy 1 over its numpy 2).
echo "$env/site" >"$packages/1_carried.pth"
echo "$(pwd)/client/src" >>"$packages/1_carried.pth"
# Of the machine's packages, use only torch, ONNX and their dependencies: others are built for its numpy.
"$torch_python" - "$env/machine" <<'END'
import sys
from pathlib import Path

NAMES = (
    "_distutils_hack cuda functorch filelock flatbuffers fsspec ml_dtypes mpmath networkx nvidia onnx onnx_ir "
    "onnxruntime onnxscript setuptools sympy torch torchaudio torchgen triton"
).split()
machine = Path(sys.argv[1])
machine.mkdir(exist_ok=True)
for folder in (Path(p) for p in sys.path if p.endswith("-packages")):
    for entry in folder.glob("*"):
        name = entry.name.partition("-")[0].removesuffix(".py")
        link = machine / entry.name
        if (name in NAMES or name.startswith("nvidia_")) and not link.exists():
            link.symlink_to(entry)
END
echo "$env/machine" >"$packages/2_machine.pth"

mkdir -p "$env/bin"
cat >"$env/bin/python3" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$env/python/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$env/venv/bin/python3" "\$@"
END
chmod +x "$env/bin/python3"
"$env/bin/python3" -c 'import numpy, onnxruntime, torch, transformers, tritonclient.grpc, earshot
from transformers import NemotronAsrStreamingForRNNT
print("numpy", numpy.__version__, "torch", torch.__version__, "CUDA", torch.cuda.is_available(),
      "transformers", transformers.__version__)'
