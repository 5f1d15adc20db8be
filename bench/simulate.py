"""The papers' simulations at their usual settings: numbers, the papers' numbers, and time.

python bench/simulate.py
"""

import time

from measure import save

from gapless.reproduce.simulations import SIMULATIONS

if __name__ == "__main__":
    results = {}
    for name, (_, function, settings, _) in SIMULATIONS.items():
        started = time.perf_counter()
        found = function(**settings)
        numbers = {key: float(f"{value:.4g}") for key, value in found.numbers.items()}
        seconds = round(time.perf_counter() - started, 1)
        results[name] = {"seconds": seconds, "numbers": numbers, "published": found.published}
    save("simulate", results)
