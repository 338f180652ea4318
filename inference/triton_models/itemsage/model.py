"""ItemSage for Triton's Python backend: products in, unit vectors out.

Tensors cross the border by DLPack only: the backend's numpy 1 interface silently reads and writes garbage under
numpy 2. A request that is wrong in itself is answered INVALID_ARG and fails alone; the others of its batch go on.
"""

import copy
import json
import os
from pathlib import Path

# Before torch is imported: a thread that waits for another sleeps instead of spinning. On a machine that is busy with
# other things too, spinning takes the core from the very thread that is waited for (measured: six times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import triton_python_backend_utils as pb_utils
from itemsage import ItemSage, ItemSageConfig  # beside this file
from safetensors.torch import load_file
from torch.nn import functional as F

INPUTS = ("images", "image_counts", "token_ids", "field_lengths")


class TritonPythonModel:
    def initialize(self, args):
        """Load the release beside this file, check it against its known answers, choose the precision."""
        served = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in served["parameters"].items()}
        on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self.device = torch.device("cuda", int(args["model_instance_device_id"])) if on_gpu else torch.device("cpu")
        instances = sum(group["count"] for group in served["instance_group"])
        torch.set_num_threads(int(parameters["threads"]) or max(1, len(os.sched_getaffinity(0)) // instances))

        folder = Path(__file__).parent
        config = ItemSageConfig(**json.loads((folder / "config.json").read_text())["model"])
        model = ItemSage(config).eval().requires_grad_(False)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        self.vocabulary = config.vocabulary
        self.model = self._with_precision(
            model.to(self.device), parameters["compute"], load_file(folder / "probe.safetensors")
        )

    @torch.inference_mode()
    def _with_precision(self, model, compute, probe):
        """The model in float32, or in bfloat16 (the hash embedding's long sums are kept in float32 all the same).

        Not chosen by a stopwatch: all instances must choose the same, however busy the machine is.
        """
        if compute not in ("auto", "fp32", "bf16"):
            raise pb_utils.TritonModelException(f"parameter compute is {compute!r}, must be auto, fp32 or bf16")
        inputs = [probe[name].to(self.device) for name in INPUTS]

        def cosine(candidate):
            return F.cosine_similarity(candidate(*inputs).cpu(), probe["item_embedding"]).min().item()

        if not (exact := cosine(model)) >= 0.999:  # also when it is NaN
            raise pb_utils.TritonModelException(
                f"the release is broken: cosine {exact:.5f} to its known answers, must be >= 0.999"
            )
        if compute == "fp32" or (compute == "auto" and not _has_bfloat16(self.device)):
            return model
        half = copy.deepcopy(model).to(torch.bfloat16)
        return half if compute == "bf16" or cosine(half) >= 0.9999 else model

    @torch.inference_mode()
    def execute(self, requests):
        responses = [None] * len(requests)
        accepted = []
        for place, request in enumerate(requests):
            try:
                accepted.append((place, self._read(request)))
            except ValueError as error:
                responses[place] = _failed(str(error), pb_utils.TritonError.INVALID_ARG)
        if not accepted:
            return responses
        places, inputs = zip(*accepted, strict=True)
        try:
            batch = [_join(parts).to(self.device, non_blocking=True) for parts in zip(*inputs, strict=True)]
            answers = self.model(*batch).cpu().split([len(images) for images, *_ in inputs])
        except RuntimeError as error:  # out of memory and the like: nobody's request is to blame, later may help
            for place in places:
                responses[place] = _failed(f"{type(error).__name__}: {error}", pb_utils.TritonError.UNAVAILABLE)
            return responses
        for place, (images, *_), answer in zip(places, inputs, answers, strict=True):
            # NaN or infinity anywhere in a product's images, padding included, makes its answer NaN: the answer is the
            # cheaper place to look.
            if torch.isfinite(answer).all() or torch.isfinite(images).all():
                responses[place] = pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("item_embedding", answer)])
            else:
                responses[place] = _failed("images hold NaN or infinity", pb_utils.TritonError.INVALID_ARG)
        return responses

    def _read(self, request):
        """The four tensors of a request, checked. Triton itself has checked types, ranks and equal batch sizes.

        Raises:
            ValueError: an id outside the vocabulary, counts that disagree with the tensors.
        """
        images, counts, ids, lengths = (
            torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in INPUTS
        )
        counts = counts[:, 0]
        slots, width = images.shape[1], ids.shape[1]
        if counts.min() < 0 or counts.max() > slots:
            raise ValueError(f"image_counts must be within 0 and the {slots} image slots sent")
        totals = lengths.sum(1, keepdim=True)
        if lengths.min() < 0 or totals.max() > width:
            raise ValueError(f"field_lengths must be >= 0 and sum to at most the {width} token_ids sent")
        used = torch.arange(width) < totals
        if (used & ((ids < 0) | (ids >= self.vocabulary))).any():
            raise ValueError(
                f"token_ids must be within 0 and {self.vocabulary - 1}: is this another release's tokenizer?"
            )
        return images, counts, ids, lengths


def _join(parts):
    """Tensors of several requests -> one, padded with zeros to the widest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].dim() == 1:
        return torch.cat(parts)
    width = max(part.shape[1] for part in parts)
    out = parts[0].new_zeros(sum(map(len, parts)), width, *parts[0].shape[2:])
    for rows, part in zip(out.split([len(part) for part in parts]), parts, strict=True):
        rows[:, : part.shape[1]] = part
    return out


def _failed(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _has_bfloat16(device):
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return check is not None and check()
