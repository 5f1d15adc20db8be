"""Gap metrics of 25,000 pairs at d = 512: time and peak memory, beside the uniformity terms by pdist and cdist.

python bench/gap.py
"""

from measure import measure, save

SETUP = """
import torch
import torch.nn.functional as F
from gapless.geometry import gap_metrics
from gapless.eval import retrieval_recall
torch.manual_seed(0)
x = F.normalize(torch.randn({n}, 512), dim=1)
y = F.normalize(x + torch.randn({n}, 512) / 16, dim=1)
"""
UNIFORMITY = """
from gapless.losses import cross_uniformity_loss, uniformity_loss
uniformity_loss(x, y), cross_uniformity_loss(x, y)
"""
PDIST = """
for f in (x, y):
    torch.pdist(f).pow(2).mul(-2).exp().mean().log()
others = ~torch.eye(len(x), dtype=torch.bool)
torch.cdist(x, y)[others].square().mul(-2).exp().mean().log()
"""

if __name__ == "__main__":
    setup = SETUP.format(n=25_000)
    ours, theirs = measure(setup, UNIFORMITY), measure(setup, PDIST, repeats=1)
    save(
        "gap",
        {
            "pairs": 25_000,
            "dimension": 512,
            "gap_metrics_and_recall": measure(setup, "gap_metrics(x, y); retrieval_recall(x, y)"),
            "uniformity_terms": ours,
            "uniformity_terms_by_pdist": theirs,
            "time_ratio": round(theirs["seconds"] / ours["seconds"], 2),
            "extra_memory_ratio": round(theirs["extra_mib"] / max(ours["extra_mib"], 1), 1),
        },
    )
