"""Export to TensorRT; only `engine.py` imports TensorRT, only `fp8_worker.py` modelopt."""
