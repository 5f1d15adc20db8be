"""Time and peak memory of the four-term loss, forward and backward, beside open_clip's ClipLoss and pdist / cdist.

python bench/losses.py            # 30 minutes on two cores; leave them alone meanwhile
python bench/losses.py --largest  # only the memory of 65,536 pairs, the last that is measured
python bench/losses.py --figure   # draws docs/losses_cost.png from the saved results

One run times all implementations in turns, so that ratios hold even if the machine is slower than it was before.
Features are fp32, pairs with a cosine of 0.7, logit_scale 100.
"""

import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from measure import RESULTS, measure, save
from open_clip.loss import ClipLoss
from torch import Tensor

from gapless.losses import PRESETS, Objective

SIZES = {128: (256, 1024, 4096, 8192), 512: (256, 1024, 4096, 8192, 16384)}
PDIST_UP_TO = 4096
PLAIN_UP_TO = 1024
ROUNDS = 7


def clip(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """open_clip's ClipLoss, which forms its logits twice in a single process."""
    return ClipLoss()(x, y, scale)


def one_product(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss with the logits formed once."""
    logits, labels = scale * (x @ y.T), torch.arange(len(x))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def pdist(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The four terms as the paper's code forms them."""
    uniform = sum(torch.pdist(f).pow(2).mul(-2).exp().mean().log() for f in (x, y)) / 2
    others = ~torch.eye(len(x), dtype=torch.bool)
    cross = torch.cdist(x, y)[others].square().mul(-2).exp().mean().log()
    return ClipLoss()(x, y, scale) + uniform + cross + (x - y).norm(dim=1).pow(2).mean()


def objective(implementation: str):
    terms = Objective(PRESETS["cuaxu"], implementation=implementation)
    return lambda x, y, scale: terms(x, y, scale)["loss"]


FORMS = {
    "clip": clip,
    "one_product": one_product,
    "pdist": pdist,
    "plain": objective("plain"),
    "ours": objective("auto"),
}


def inputs(n: int, d: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    x = F.normalize(torch.randn(n, d), dim=1)
    y = F.normalize(x + torch.randn(n, d) / d**0.5, dim=1)
    return [x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_(), torch.tensor(100.0, requires_grad=True)]


def once(form: str, tensors: list[Tensor]) -> float:
    """Seconds of a forward and a backward pass."""
    for tensor in tensors:
        tensor.grad = None
    started = time.perf_counter()
    FORMS[form](*tensors).backward()
    return time.perf_counter() - started


def forms(n: int) -> list[str]:
    left_out = {"pdist": n > PDIST_UP_TO, "plain": n > PLAIN_UP_TO}
    return [form for form in FORMS if not left_out.get(form, False)]


def time_all(n: int, d: int) -> dict[str, float]:
    """Median milliseconds by form; in bf16 ours alone."""
    tensors, half = inputs(n, d), inputs(n, d, torch.bfloat16)
    rounds: dict[str, list[float]] = {}
    for k in range(1 + ROUNDS * (5 if n <= 1024 else 1)):
        for form in forms(n):
            seconds = once(form, tensors)
            if k:  # the first round warms up
                rounds.setdefault(form, []).append(seconds)
        if k and n == 4096:
            rounds.setdefault("ours_bf16", []).append(once("ours", half))
    return {form: round(1000 * statistics.median(seconds), 2) for form, seconds in rounds.items()}


def memory(form: str, n: int, d: int) -> float:
    """MiB above the inputs and the libraries, in a process of its own."""
    setup = f"import sys; sys.path.insert(0, 'bench'); import losses; tensors = losses.inputs({n}, {d})"
    # A first small pass loads what the libraries load late. It is too small to teach the C library to keep freed
    # memory, of which it would otherwise hold another 40 MiB or so, in any of the forms.
    setup += f"; losses.once({form!r}, losses.inputs(300, {d}))"
    return measure(setup, f"losses.once({form!r}, tensors)", repeats=1)["extra_mib"]


def draw(results: dict) -> None:
    """Time and memory over the number of pairs, for the documentation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    named = {"clip": "CLIP alone (open_clip)", "pdist": "four terms, pdist/cdist", "ours": "four terms, gapless"}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for form, label in named.items():
        for axis, kind in zip(axes, ("milliseconds", "mib"), strict=True):
            rows = [
                (r["pairs"], r[kind][form])
                for r in results["rows"]
                if r["dimension"] == 512 and r[kind].get(form, 0) > 1
            ]
            axis.loglog(*zip(*rows, strict=True), marker="o", label=label)
    for axis, title in zip(axes, ("milliseconds, forward and backward", "extra memory, MiB"), strict=True):
        axis.set(xlabel="pairs in the batch (d = 512)", title=title)
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig("docs/losses_cost.png", dpi=130)


TARGETS = {
    # (pairs, dimension, what): at most
    (4096, 512, "clip"): 1.15,
    (8192, 512, "clip"): 1.0,
    (16384, 512, "clip"): 1.0,
    (4096, 512, "one_product"): 1.3,
    (8192, 512, "one_product"): 1.3,
    (16384, 512, "one_product"): 1.3,
    (4096, 128, "clip"): 0.9,
    (4096, 512, "bf16_to_clip"): 0.65,
    (4096, 512, "pdist"): 1 / 6,
    (8192, 512, "mib"): 150,
    (16384, 512, "mib"): 250,
}


def not_reached(rows: list[dict]) -> list[str]:
    """What was aimed at and missed."""
    found = []
    for row in rows:
        for (n, d, what), most in TARGETS.items():
            if (row["pairs"], row["dimension"]) == (n, d):
                value = row["mib"]["ours"] if what == "mib" else row["ours_to"][what]
                if value > most:
                    found.append(f"N = {n}, D = {d}, {what}: {value:g}, aimed at {most:.3g}")
    return found


def ratios(row: dict[str, float]) -> dict[str, float]:
    named = {form: round(row["ours"] / row[form], 3) for form in row if form not in ("ours", "ours_bf16")}
    if "ours_bf16" in row:
        named["bf16_to_clip"] = round(row["ours_bf16"] / row["clip"], 3)
    return named


if __name__ == "__main__":
    if "--figure" not in sys.argv and "--largest" not in sys.argv:
        results = {"threads": torch.get_num_threads(), "load_before": round(os.getloadavg()[0], 2), "rounds": ROUNDS}
        rows = []
        for d, sizes in SIZES.items():
            for n in sizes:
                milliseconds = time_all(n, d)
                extra = {form: memory(form, n, d) for form in forms(n) if form != "one_product"} if d == 512 else {}
                row = {"pairs": n, "dimension": d, "milliseconds": milliseconds, "ours_to": ratios(milliseconds)}
                rows.append(row | {"mib": extra})
                print(rows[-1], flush=True)
                save("losses", results | {"rows": rows}, show=False)
    results = json.loads((RESULTS / "losses.json").read_text())
    if "--figure" not in sys.argv:
        results["largest"] = {"pairs": 65536, "dimension": 512, "mib": memory("ours", 65536, 512)}
    results["not_reached"] = not_reached(results["rows"])
    save("losses", results)
    draw(results)
