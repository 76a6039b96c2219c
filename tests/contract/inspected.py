"""What `wenxin-runtime inspect` leaves in the termination log: one made-up result for every test and story that needs
one where no inspection runs. test_inspection.py holds it to what the runtime really prints.
"""

from typing import Any

INSPECTED: dict[str, Any] = {
    "digest": "sha256:" + "0123" * 16,
    "architecture": "Ernie4_5ForCausalLM",
    "parameters": 361_000_000,
    "bytes": 722_000_000,
    "layers": 18,
    "hiddenSize": 1024,
    "contextLength": 131_072,
    "vocabSize": 103_424,
    "dtype": "bfloat16",
    "heads": 16,
    "kvHeads": 2,
    "headDim": 128,
    "intermediateSize": 3072,
    "tensorParallelSizes": [1, 2, 4, 8, 16],
    "tiedHead": True,
}

EXPERTS: dict[str, Any] = {
    "experts": 64,
    "expertsPerToken": 6,
    "expertLayers": 27,
    "expertSize": 1536,
    "sharedExperts": 2,
    "activeParameters": 3_350_000_000,
}
"""What it says besides of a mixture of experts."""
