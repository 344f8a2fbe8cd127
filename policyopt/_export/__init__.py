"""Export of fitted policies: one decision graph per exit, written as Python, ONNX or C, with golden vectors."""
