"""What a runtime computes in, if it is asked for something else than the file says."""

from alignseg_infer.backports import StrEnum


class RunPrecision(StrEnum):
    """What a float32 ``.onnx`` file is computed in: fp16 in TensorRT, bf16 in OpenVINO."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
