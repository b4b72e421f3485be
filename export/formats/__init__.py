"""Files of the exported stages: ONNX graphs and programs of `torch.export`, written and run."""
