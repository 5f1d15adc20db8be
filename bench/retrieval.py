"""Recall of 5,000 images and 25,000 captions at d = 512: time and peak memory beside clip_benchmark's functions.

python bench/retrieval.py
"""

from measure import measure, save

SETUP = """
import torch
import torch.nn.functional as F
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k
from gapless.eval import retrieval_recall
torch.manual_seed(0)
images = F.normalize(torch.randn(5000, 512), dim=1)
owner = torch.arange(5000).repeat_interleave(5)
texts = F.normalize(images[owner] + 0.12 * torch.randn(25000, 512), dim=1)
"""
OURS = "found = retrieval_recall(images, texts, image_of_text=owner)"
THEIRS = """
scores = texts @ images.T
positive = torch.zeros_like(scores, dtype=bool)
positive[torch.arange(len(scores)), owner] = True
expected = {}
for k in (1, 5, 10):
    for name, s, p in (("image", scores, positive), ("text", scores.T, positive.T)):
        hits = batchify(recall_at_k, s, p, 64, "cpu", k=k) > 0
        expected[f"{name}_retrieval_recall@{k}"] = hits.float().mean().item()
"""
SAME = f"""
{OURS}
{THEIRS}
assert found.keys() == expected.keys()
assert all(abs(found[name] - expected[name]) < 1e-4 for name in found), (found, expected)
"""

if __name__ == "__main__":
    measure(SETUP, SAME, repeats=1)
    ours, theirs = measure(SETUP, OURS, repeats=5), measure(SETUP, THEIRS, repeats=3)
    save(
        "retrieval",
        {
            "images": 5000,
            "texts": 25000,
            "dimension": 512,
            "ours": ours,
            "clip_benchmark": theirs,
            "time_ratio": round(theirs["seconds"] / ours["seconds"], 2),
        },
    )
