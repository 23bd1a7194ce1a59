"""The released code of QRHead (princeton-pli/QRHead, MIT), driven line by line; it runs in an environment of its own.

    PYTHON benchmarks/released_qrhead.py CHECKOUT MODEL THREADS     # by `benchmarks.ranking --released PYTHON CHECKOUT`

The code wants transformers 4.44 and is imported from a checkout, unchanged. On a CPU it runs in float32 with its eager
attention: its flash attention needs a GPU, and its sdpa attention does not keep the queries that it scores with.
Standard input holds one JSON object a line ("heads", "query", "documents"); for each, a line with "scores" and
"seconds" is printed.
"""

import json
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the model, answer lines until standard input ends."""
    checkout, model, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sys.path.insert(0, str(checkout / "src"))
    with redirect_stdout(sys.stderr):
        import torch
        from qrretriever import attn_retriever as released  # type: ignore[import-not-found]

        torch.set_num_threads(threads)
        own = released.LlamaForCausalLM.from_pretrained
        settings = {"torch_dtype": torch.float32, "attn_implementation": "eager", "device_map": None}
        released.LlamaForCausalLM.from_pretrained = lambda name, **given: own(name, **{**given, **settings})
        config = {
            "model_name_or_path": model,
            "model_base_class": "llama-3.1-8b-instruct",
            "attn_head_set": "full_heads",
        }
        retriever = released.AttnBasedRetriever(config, device="cpu")
        # Attention maps are asked for but never read: what is scored is rebuilt from the cache.
        retriever.llm.forward = partial(_without_maps, retriever.llm.forward)
    for line in sys.stdin:
        asked = json.loads(line)
        retriever.attn_head_set = asked["heads"]
        documents = [{"idx": place, "paragraph_text": text} for place, text in enumerate(asked["documents"])]
        start = time.perf_counter()
        with redirect_stdout(sys.stderr):
            scores = retriever.score_docs(asked["query"], documents)
        seconds = time.perf_counter() - start
        print(
            json.dumps({"scores": [scores[place] for place in range(len(documents))], "seconds": seconds}), flush=True
        )


def _without_maps(forward: Any, *args: Any, **given: Any) -> Any:
    return forward(*args, **{**given, "output_attentions": False})


if __name__ == "__main__":
    main()
