"""The tiled terms are the plain ones: in value and gradient, at any size, on any number of processes."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from gapless.engine import processes as engine_processes
from gapless.engine.processes import Processes, gather_rows
from gapless.loss_terms import TERMS
from gapless.losses import Objective
from gapless.losses.distributed import tiled_terms
from tests.processes import run_processes

SCALE = 20.0
BIAS = -3.0
TILED = [name for name, term in TERMS.items() if term.tiled]


def features(n, d=16, dtype=torch.float64, seed=0, noise=0.5):
    """Pairs that lie near each other."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, d, dtype=torch.float64, generator=generator), dim=1)
    y = F.normalize(x + noise * torch.randn(n, d, dtype=torch.float64, generator=generator), dim=1)
    return x.to(dtype), y.to(dtype)


def evaluate(objective, x, y, groups=None, scale=SCALE):
    """Terms, and the gradients of each by features, temperature and bias."""
    inputs = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    inputs += [torch.tensor(v, dtype=x.dtype, requires_grad=True) for v in (scale, BIAS)]
    values = objective(*inputs, groups)
    values.pop("loss")
    gradients = {
        name: torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True, materialize_grads=True)
        for name, value in values.items()
    }
    return {name: value.detach() for name, value in values.items()}, gradients


def assert_agree(found, expected, value_rtol, gradient_rtol):
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=value_rtol, atol=value_rtol * 1e-2, msg=name)
        for one, other in zip(found[1][name], expected[1][name], strict=True):
            atol = gradient_rtol * other.abs().max().item() + 1e-12
            torch.testing.assert_close(one, other, rtol=0, atol=atol, msg=f"gradient of {name}")


def both(terms, **knobs):
    return [Objective(dict.fromkeys(terms, 1.0), implementation=i, **knobs) for i in ("tiled", "plain")]


def needs(n):
    return [name for name in TILED if n >= TERMS[name].least_pairs]


@pytest.fixture(params=[8, 64, 2**21])
def strips(request, monkeypatch):
    """Strips of one row, of a few, and all at once; kept in part."""
    monkeypatch.setattr("gapless.losses.tiled.STRIP_ELEMENTS", request.param)
    monkeypatch.setattr("gapless.losses.tiled.KEPT_ELEMENTS", 3 * request.param)


@pytest.mark.parametrize("n", [1, 2, 3, 13, 16, 17])
@pytest.mark.parametrize("hardness", [0.0, 0.5])
def test_tiled_is_plain_in_float64(n, hardness, strips):
    x, y = features(n)
    tiled, plain = both(needs(n), hardness=hardness)
    assert_agree(evaluate(tiled, x, y), evaluate(plain, x, y), 1e-10, 1e-10)


@pytest.mark.parametrize("n", [2, 7, 33])
def test_tiled_is_plain_with_duplicates_masked(n, strips):
    x, y = features(n)
    groups = torch.stack([torch.arange(n) // 2, torch.arange(n) % 5], dim=1)
    tiled, plain = both(TILED, hardness=0.3)
    assert_agree(evaluate(tiled, x, y, groups), evaluate(plain, x, y, groups), 1e-10, 1e-10)


def test_tiled_is_plain_in_float32():
    x, y = features(300, 64, torch.float32)
    tiled, plain = both(TILED)
    in_float64 = evaluate(plain, x.double(), y.double())
    converted = {n: v.float() for n, v in in_float64[0].items()}, in_float64[1]
    found = evaluate(tiled, x, y)
    assert_agree((found[0], {n: [g.double() for g in v] for n, v in found[1].items()}), converted, 1e-5, 1e-5)


def test_the_four_terms_at_full_temperature_with_duplicates_and_opposite_rows(strips):
    x, y = features(24)
    x[5], y[5] = x[4], y[4]
    x[7] = -x[6]
    y[9] = -x[9]
    tiled, plain = both(["clip", "uniform", "cross_uniform", "simclr"])
    found = evaluate(tiled, x.float(), y.float(), scale=100.0)
    assert all(bool(torch.isfinite(g).all()) for gradients in found[1].values() for g in gradients)
    assert_agree(evaluate(tiled, x, y, scale=100.0), evaluate(plain, x, y, scale=100.0), 1e-10, 1e-10)


def test_gradients_near_convergence_are_no_worse_than_the_plain_ones():
    # Positive cosine 0.5 at scale 50: CLIP's loss nearly vanishes, and 1 - p has few digits in float32.
    generator = torch.Generator().manual_seed(3)
    x = F.normalize(torch.randn(512, 128, dtype=torch.float64, generator=generator), dim=1)
    away = torch.randn(512, 128, dtype=torch.float64, generator=generator)
    away = F.normalize(away - (away * x).sum(1, keepdim=True) * x, dim=1)
    y = 0.5 * x + 0.75**0.5 * away
    tiled, plain = both(["clip"])
    x, y = x.float(), y.float()
    exact = evaluate(plain, x.double(), y.double(), scale=50.0)[1]["clip"]
    errors = [
        max((g.double() - e).norm().item() / e.norm().item() for g, e in zip(each, exact, strict=True) if e.norm() > 0)
        for each in (evaluate(o, x, y, scale=50.0)[1]["clip"] for o in (tiled, plain))
    ]
    assert errors[0] <= errors[1]
    assert errors[0] < 1e-4


def test_a_second_backward_pass_gives_the_same(strips):
    x, y = (f.requires_grad_() for f in features(20))
    loss = Objective({"clip": 1.0, "cross_uniform": 1.0, "uniform": 1.0}, implementation="tiled")(
        x, y, torch.tensor(SCALE)
    )["loss"]
    once = torch.autograd.grad(loss, (x, y), retain_graph=True)
    twice = torch.autograd.grad(loss, (x, y))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_auto_is_tiled_for_many_pairs(monkeypatch):
    x, y = features(40)
    called = []

    def noting(names, *rest):
        called.append(list(names))
        return tiled_terms(names, *rest)

    monkeypatch.setattr("gapless.losses.objective.tiled_terms", noting)
    Objective({"clip": 1.0, "align": 1.0})(x, y, torch.tensor(SCALE))
    monkeypatch.setattr("gapless.losses.objective.TILED_FROM", 40)
    Objective({"clip": 1.0, "align": 1.0})(x, y, torch.tensor(SCALE))
    assert called == [[], ["clip"]]


def test_every_row_masked_repels_nothing():
    x, y = features(6)
    groups = torch.zeros(6, 1, dtype=torch.long)
    for objective in both(TILED, hardness=0.5):
        values, gradients = evaluate(objective, x, y, groups)
        assert values["clip"].item() == 0
        assert values["uniform"].item() == 0
        assert all(bool(torch.isfinite(g).all()) for each in gradients.values() for g in each)


def test_the_objective_compiles():
    x, y = features(32, dtype=torch.float32)
    objective = both(["clip", "uniform", "cross_uniform"])[0]
    compiled = torch.compile(objective.__call__, backend="eager")
    found = compiled(x, y, torch.tensor(SCALE))["loss"]
    torch.testing.assert_close(found, objective(x, y, torch.tensor(SCALE))["loss"])


def of_all_terms(sizes, masked):
    """In one of the processes: terms and gradients of this process's rows, temperature and bias."""
    world, rank = dist.get_world_size(), dist.get_rank()
    x, y = features(sum(sizes))
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    groups = torch.arange(sum(sizes)).unsqueeze(1) // 2 if masked else None
    objective = Objective(dict.fromkeys(TERMS, 1.0), hardness=0.5, implementation="tiled", team=Processes())
    leaves = [x[own].clone().requires_grad_(), y[own].clone().requires_grad_()]
    leaves += [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (SCALE, BIAS)]
    gathered = gather_rows(torch.cat(leaves[:2], dim=1), sizes).chunk(2, dim=1)
    values = objective(*gathered, *leaves[2:], groups)
    values.pop("loss")
    found = {}
    for name, value in values.items():
        gx, gy, gs, gb = torch.autograd.grad(
            value, leaves, allow_unused=True, retain_graph=True, materialize_grads=True
        )
        for scalar in (gs, gb):
            dist.all_reduce(scalar)
        found[name] = [value.tolist(), *((g / world).tolist() for g in (gx, gy, gs, gb))]
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [(13,), (7, 6), (12, 1), (5, 0, 6), (4, 4, 4, 1)])
def test_processes_share_the_work_of_one(sizes, masked):
    n = sum(sizes)
    x, y = features(n)
    groups = torch.arange(n).unsqueeze(1) // 2 if masked else None
    plain = Objective(dict.fromkeys(TERMS, 1.0), hardness=0.5, implementation="plain")
    values, gradients = evaluate(plain, x, y, groups)
    results = run_processes(len(sizes), of_all_terms, sizes, masked)
    assert all(set(result) == set(TERMS) for result in results)
    for name, value in values.items():
        for result in results:
            assert result[name][0] == pytest.approx(value.item(), rel=1e-10, abs=1e-12), name
            for scalar, expected in zip(result[name][3:], gradients[name][2:], strict=True):
                assert scalar == pytest.approx(expected.item(), rel=1e-9, abs=1e-12), name
        for k in (1, 2):
            joined = torch.tensor([row for result in results for row in result[name][k]], dtype=torch.float64)
            expected = gradients[name][k - 1]
            torch.testing.assert_close(joined, expected, rtol=1e-9, atol=1e-12, msg=f"gradient of {name}")


def sent(sizes):
    """In one of the processes: bytes that the loss of four terms passes to each kind of exchange."""
    counted = {}

    def counting(name, call):
        def counted_call(*args, **kwargs):
            tensor = args[1] if name.startswith("_") else args[0]
            counted[name] = counted.get(name, 0) + tensor.numel() * tensor.element_size()
            return call(*args, **kwargs)

        return counted_call

    for place, name in ((engine_processes, "_all_gather"), (engine_processes, "_reduce_scatter"), (dist, "all_reduce")):
        setattr(place, name, counting(name, getattr(place, name)))
    rank = dist.get_rank()
    x, y = features(sum(sizes), 8, torch.float32)
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    rows = torch.cat([x[own], y[own]], dim=1).requires_grad_()
    terms = {"clip": 1.0, "uniform": 1.0, "align": 1.0, "cross_uniform": 1.0}
    objective = Objective(terms, implementation="tiled", team=Processes())
    objective(*gather_rows(rows, sizes).chunk(2, dim=1), torch.tensor(SCALE, requires_grad=True))["loss"].backward()
    return counted


def test_bytes_per_step_are_those_of_the_documentation():
    n, d, world = 12, 8, 3
    for counted in run_processes(world, sent, (4, 4, 4)):
        assert counted["_all_gather"] == n // world * 2 * d * 4
        assert counted["_reduce_scatter"] == n * 2 * d * 4
        # Forward the maximum and the sum for each text, backward one gradient; and 5 sums forward and backward.
        assert counted["all_reduce"] == 3 * n * 4 + 2 * 5 * 4
