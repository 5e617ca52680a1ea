"""Models as programs that need no Plait: ONNX, or torch's exported programs."""
