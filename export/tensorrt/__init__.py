"""Export to TensorRT; only `bindings.py` imports TensorRT, only `fp8_worker.py` modelopt."""
