"""The frozen visual encoder for Triton's Python backend: pixels in, unit vectors out.

Tensors cross the border by DLPack only: the backend's numpy 1 interface silently reads and writes garbage under
numpy 2. Every uint8 image is a valid one, so there is no request to refuse: Triton has checked type and shape.
"""

import json
import os
from pathlib import Path

# Before torch is imported: a thread that waits for another sleeps instead of spinning (see itemsage/model.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import triton_python_backend_utils as pb_utils
from safetensors.torch import load_file
from torch.nn import functional as F
from visual import VisualEncoder  # beside this file


class TritonPythonModel:
    def initialize(self, args):
        """Load the weights beside this file and check them against their known answers."""
        parameters = {k: v["string_value"] for k, v in json.loads(args["model_config"])["parameters"].items()}
        on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self.device = torch.device("cuda", int(args["model_instance_device_id"])) if on_gpu else torch.device("cpu")
        torch.set_num_threads(int(parameters["threads"]) or len(os.sched_getaffinity(0)))

        folder = Path(__file__).parent
        model = VisualEncoder()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model = model.optimised().to(self.device)
        probe = load_file(folder / "probe.safetensors")
        cosine = F.cosine_similarity(self._encode(probe["pixels"]), probe["image_embedding"]).min().item()
        if not cosine >= 0.995:  # bfloat16 may cost a few thousandths; also caught: NaN
            raise pb_utils.TritonModelException(
                f"the encoder is broken: cosine {cosine:.5f} to its known answers, must be >= 0.995"
            )

    @torch.inference_mode()
    def _encode(self, pixels):
        return self.model(pixels.to(self.device, non_blocking=True)).cpu()

    def execute(self, requests):
        parts = [torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, "pixels")) for request in requests]
        try:
            answers = self._encode(parts[0] if len(parts) == 1 else torch.cat(parts)).split([len(p) for p in parts])
        except RuntimeError as error:  # out of memory and the like: nobody's request is to blame, later may help
            failure = pb_utils.TritonError(f"{type(error).__name__}: {error}", pb_utils.TritonError.UNAVAILABLE)
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("image_embedding", a)]) for a in answers]
