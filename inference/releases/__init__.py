"""Releases: trained models in Triton's model repository.

* `repository`: the layout on disk, which release is live and which ones Triton serves. Imports no torch.
* `tensors`: reads a safetensors file.
* `release`: reads one release back.
* `probes`: known answers, which prove that a server serves the right weights.
* `export`: writes a release, and the visual encoder, for Triton's Python backend.
* `onnx_export`: writes a release as ONNX.
"""
