"""Quantize with modelopt: `python fp8_worker.py MODEL.onnx CALIBRATION.npz OUT.onnx`.

This script imports nothing of this project, which is not installed in modelopt's environment.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx


def main(model: str, calibration: str, quantized: str) -> None:
    """Quantize every Gemm of `model`, the encoder's linear layers."""
    from modelopt.onnx.quantization import quantize  # pyright: ignore[reportMissingImports]

    samples = dict(np.load(calibration))
    shapes = (f"{name}:{'x'.join(map(str, values.shape))}" for name, values in samples.items())
    gemms = [node.name for node in onnx.load(model).graph.node if node.op_type == "Gemm"]
    quantize(
        model,
        quantize_mode="fp8",
        calibration_data=samples,
        # Calibrates to the largest magnitude: fp8 has exponent bits for outliers, so nothing is
        # clipped.
        calibration_method="max",
        calibration_eps=["cpu"],
        calibration_shapes=",".join(shapes),
        op_types_to_quantize=["Gemm"],
        nodes_to_quantize=gemms,
        # The graph is already strongly typed; "fp32" leaves its types unchanged.
        high_precision_dtype="fp32",
        output_path=quantized,
        log_level="WARNING",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
