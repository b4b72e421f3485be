"""The road to TensorRT engines; only `engine.py` imports TensorRT, only `fp8.py` modelopt."""
