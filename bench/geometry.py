"""What gapless gap does to 25,000 (and --largest: 100,000) pairs at d = 512, beside scikit-learn and pdist; and
robustness of 50,000 queries to noise on 1,000 classes.

python bench/geometry.py [--largest]
"""

import sys

from measure import measure, save

SETUP = """
import torch
import torch.nn.functional as F
from gapless.eval import retrieval_recall
from gapless.geometry import close_gap, robustness, whole_gap
torch.manual_seed(0)
x = F.normalize(torch.randn({n}, 512), dim=1)
y = F.normalize(x[:{m}] + torch.randn({m}, 512) / 16, dim=1)
"""
OBVIOUS = """
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
for f in (x, y):
    torch.pdist(f).pow(2).mul(-2).exp().mean().log()
    PCA(512).fit(f.numpy())
torch.cdist(x, y).square().mul(-2).exp().mean().log()
both = np.concatenate([x.numpy(), y.numpy()])
LogisticRegression(max_iter=1000).fit(both, np.arange(len(both)) < len(x))
NearestNeighbors(n_neighbors=11).fit(both[:10000]).kneighbors(both[:10000])
"""
DRAWS = 100
ROBUST = """
gap = close_gap(x, y, "translate").text_shift
robustness(x, y, gap, [k / 8 for k in range(9)], draws={draws})
"""

if __name__ == "__main__":
    results = {}
    for n in (25_000, 100_000) if "--largest" in sys.argv else (25_000,):
        code = "whole_gap(x, y)\nretrieval_recall(x, y)"  # what gapless gap does
        results[f"gap_{n}"] = measure(SETUP.format(n=n, m=n), code, repeats=1)
    setup = SETUP.format(n=25_000, m=25_000)
    results["obvious_25000"] = measure(setup, OBVIOUS, repeats=1)
    few = measure(SETUP.format(n=50_000, m=1000), ROBUST.format(draws=5), repeats=1)
    results["robustness_50000_x_1000_x_9_alphas_5_draws"] = few
    save("geometry", results)
