"""Boltzmann statistics: identities among the functions, their derivatives, and systems whose answer is known."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
from anysoft_conformance.rows import Row, rows

import anysoft
from anysoft import boltzmann, free_energy, gibbs_entropy, heat_capacity, log_partition, mean_energy

INF, NAN = math.inf, math.nan
REDUCTIONS = (log_partition, free_energy, mean_energy, gibbs_entropy, heat_capacity)
F64 = rows(dtypes=("float64",))
DIFFERENTIATED = rows("torch", "jax", dtypes=("float64",))
TEMPERATURES = np.array([[0.05], [0.4], [1.0], [7.0], [300.0]])
ENERGIES = np.random.default_rng(4).normal(0, 2, (5, 8))
LOG_G = np.log(np.random.default_rng(5).integers(1, 9, (5, 8)))


def all_of(row: Row, energies: Any, temperature: Any, **options: Any) -> dict[str, Any]:
    """Every function of a row, on the host."""
    given = (row.array(energies), row.array(temperature))
    return {function.__name__: row.host(function(*given, **options)) for function in (boltzmann, *REDUCTIONS)}


def same(found: Any, right: Any, **more: Any) -> None:
    np.testing.assert_allclose(found, right, **{"rtol": 1e-13, "atol": 1e-13, **more})


# ---------------------------------------------------------------------------------------------------------------------
# Identities


@pytest.mark.parametrize("row", F64)
@pytest.mark.parametrize("degenerate", [False, True])
def test_identities(row: Row, degenerate: bool) -> None:
    options = {"log_degeneracy": row.array(LOG_G)} if degenerate else {}
    with row.framework.session():
        of = all_of(row, ENERGIES, TEMPERATURES, **options)
    p, t, log_g = of["boltzmann"], TEMPERATURES[:, 0], LOG_G if degenerate else np.zeros((5, 8))
    same(of["free_energy"], of["mean_energy"] - t * of["gibbs_entropy"], rtol=1e-14)
    same(of["log_partition"], -of["free_energy"] / t, rtol=1e-14)
    same(of["gibbs_entropy"], -(p * (np.log(p) - log_g)).sum(-1))
    same(of["mean_energy"], (p * ENERGIES).sum(-1))
    same(p, np.exp(log_g - ENERGIES / TEMPERATURES - of["log_partition"][:, None]))
    same(of["heat_capacity"], (p * (ENERGIES - of["mean_energy"][:, None]) ** 2).sum(-1) / t**2)


@pytest.mark.parametrize("row", F64)
def test_what_a_shift_of_the_energies_changes(row: Row) -> None:
    with row.framework.session():
        before = all_of(row, ENERGIES, TEMPERATURES)
        after = all_of(row, ENERGIES + 32.0, TEMPERATURES)
    for name in ("boltzmann", "gibbs_entropy", "heat_capacity"):
        same(after[name], before[name], rtol=1e-11)
    for name in ("free_energy", "mean_energy"):
        same(after[name], before[name] + 32.0, atol=0)
    same(after["log_partition"], before["log_partition"] - 32.0 / TEMPERATURES[:, 0])


@pytest.mark.parametrize("row", F64)
def test_a_level_of_several_states_is_so_many_states(row: Row) -> None:
    states = np.repeat([0.0, 1.0, 2.5], [2, 3, 1])
    temperatures = np.array([[0.0], [0.02], [1.0], [50.0], [INF]])
    with row.framework.session():
        log_g = row.array(np.log([2.0, 3.0, 1.0]))
        levels = all_of(row, np.tile([0.0, 1.0, 2.5], (5, 1)), temperatures, log_degeneracy=log_g)
        alone = all_of(row, np.tile(states, (5, 1)), temperatures)
    for function in REDUCTIONS:
        name = function.__name__
        same(levels[name], alone[name], atol=0, rtol=4e-15)
    same(levels["boltzmann"], np.add.reduceat(alone["boltzmann"], [0, 2, 5], axis=1), atol=0, rtol=4e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Systems with an answer of their own


@pytest.mark.parametrize("row", F64)
def test_two_levels_have_a_schottky_anomaly(row: Row) -> None:
    gap, t = 1.0, np.geomspace(1e-3, 1e3, 200)
    with mpmath.workprec(4000):
        right = []
        for one in t.tolist():
            x = mpmath.mpf(gap) / mpmath.mpf(one)
            right.append(float(x**2 * mpmath.exp(x) / (1 + mpmath.exp(x)) ** 2))
    with row.framework.session():
        found = all_of(row, np.tile([0.0, gap], (200, 1)), t[:, None])["heat_capacity"]
    # from 1e-429, which is 0, to the peak and down again; exp(−1/T) is as well conditioned as 1/T
    np.testing.assert_array_less(np.abs(found - right), 1e-15 * (2.0 + 1.0 / t) * np.array(right) + 1e-300)
    assert abs(t[found.argmax()] - 0.4168) < 0.02


@pytest.mark.parametrize("row", F64)
def test_harmonic_oscillator(row: Row) -> None:
    """log Z = −½ω/T − log(1 − exp(−ω/T)), of levels enough that the others are below a rounding."""
    t, omega = np.array([[0.05], [0.5], [2.0], [8.0]]), 1.0
    x = omega / t[:, 0]
    with row.framework.session():
        of = all_of(row, np.tile(omega * (np.arange(400) + 0.5), (4, 1)), t)
    n = 1.0 / np.expm1(x)
    same(of["log_partition"], -0.5 * x - np.log(-np.expm1(-x)), rtol=1e-14)
    same(of["mean_energy"], omega * (n + 0.5), rtol=1e-14)
    same(of["gibbs_entropy"], (n + 1) * np.log1p(n) - n * np.log(n), rtol=1e-13, atol=0)
    same(of["heat_capacity"], x**2 * n * (n + 1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("row", F64)
def test_ising_chain(row: Row) -> None:
    """A ring of ten spins in a field: Z = λ₊^N + λ₋^N with the eigenvalues of the transfer matrix."""
    n, coupling, field = 10, 1.0, 0.3
    spins = np.array(list(itertools.product([-1.0, 1.0], repeat=n)))
    energies = -coupling * (spins * np.roll(spins, 1, axis=1)).sum(1) - field * spins.sum(1)
    t = np.array([[0.3], [1.0], [2.5], [20.0]])
    with mpmath.workdps(40):

        def log_z(beta: Any) -> Any:
            middle = mpmath.exp(beta * coupling) * mpmath.cosh(beta * field)
            root = mpmath.sqrt(
                mpmath.exp(2 * beta * coupling) * mpmath.sinh(beta * field) ** 2 + mpmath.exp(-2 * beta * coupling)
            )
            return mpmath.log((middle + root) ** n + (middle - root) ** n)

        betas = [1 / mpmath.mpf(one) for one in t[:, 0].tolist()]
        right = [[float(f) for f in (log_z(b), -mpmath.diff(log_z, b), b**2 * mpmath.diff(log_z, b, 2))] for b in betas]
    with row.framework.session():
        of = all_of(row, np.tile(energies, (4, 1)), t)
    for i, name in enumerate(("log_partition", "mean_energy", "heat_capacity")):
        same(of[name], np.array(right)[:, i], rtol=1e-13, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Calls


def test_the_temperature_may_be_positional() -> None:
    energies = np.array([[0.0, 1.0], [0.5, 3.0]])
    for function in (boltzmann, *REDUCTIONS):
        for temperature in (0.0, 0.5, 1, 2, INF, np.float32(0.5), np.array([[0.5], [2.0]]), [[0.5], [2.0]]):
            np.testing.assert_array_equal(function(energies, temperature), function(energies, temperature=temperature))
        with pytest.raises(TypeError):
            function(energies, 0.5, -1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="temperature must be a real number"):
            function(energies, None)
    assert str(anysoft.explain("free_energy", energies, temperature=0.5)).startswith("free_energy on numpy: generic")


def test_probabilities_without_degeneracies_are_softmax() -> None:
    for t in (0.0, 0.3, 1.0, 40.0, INF):
        found = boltzmann(ENERGIES, t)
        np.testing.assert_allclose(found, anysoft.softmax(-ENERGIES, temperature=t), rtol=4e-16, atol=0)


@pytest.mark.parametrize("row", rows(dtypes=("float32",)))
def test_many_levels(row: Row) -> None:
    """10⁵ levels, of which the lowest has almost nothing, in float32."""
    energies = np.random.default_rng(1).normal(0, 1, 100_000).astype(np.float32)
    e = energies.astype(np.float64)
    w = np.exp(-e)
    z, u = w.sum(), (w * e).sum() / w.sum()
    right = {
        "log_partition": np.log(z),
        "free_energy": -np.log(z),
        "mean_energy": u,
        "gibbs_entropy": np.log(z) + u,
        "heat_capacity": (w * (e - u) ** 2).sum() / z,
    }
    with row.framework.session():
        found = all_of(row, energies, 1.0)
        for name, value in right.items():
            np.testing.assert_allclose(found[name], value, rtol=2.0**-22)
    np.testing.assert_allclose(found["boltzmann"], w / z, rtol=2.0**-20, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


def jacobian(row: Row, function: Callable[[Any], Any], x: Any) -> Any:
    return row.host(row.framework.jacobian(function, x))  # type: ignore[misc]


def diagonal(row: Row, function: Callable[..., Any], energies: Any, t: Any, **options: Any) -> Any:
    """The derivative of one value a row with respect to that row's temperature."""
    whole = jacobian(row, lambda t: function(energies, t, **options), t)[..., 0]
    return np.diagonal(whole)


@pytest.mark.parametrize("row", DIFFERENTIATED)
@pytest.mark.parametrize("degenerate", [False, True])
def test_derivatives_by_the_temperature(row: Row, degenerate: bool) -> None:
    with row.framework.session():
        options = {"log_degeneracy": row.array(LOG_G)} if degenerate else {}
        energies, t = row.array(ENERGIES), row.array(TEMPERATURES)
        of = all_of(row, ENERGIES, TEMPERATURES, **options)
        temperature = TEMPERATURES[:, 0]
        same(diagonal(row, free_energy, energies, t, **options), -of["gibbs_entropy"], atol=0)
        same(diagonal(row, mean_energy, energies, t, **options), of["heat_capacity"], atol=0, rtol=1e-12)
        same(diagonal(row, log_partition, energies, t, **options), of["mean_energy"] / temperature**2)
        slope = diagonal(row, gibbs_entropy, energies, t, **options)
        same(slope, of["heat_capacity"] / temperature, atol=0, rtol=1e-12)
        # dC/dT = (third central moment)/T⁴ − 2C/T
        p, d = of["boltzmann"], ENERGIES - of["mean_energy"][:, None]
        third = (p * d**3).sum(-1) / temperature**4 - 2 * of["heat_capacity"] / temperature
        same(diagonal(row, heat_capacity, energies, t, **options), third)
        by_t = jacobian(row, lambda t: boltzmann(energies[1], t[0], **{k: v[1] for k, v in options.items()}), t[1:2])
        same(by_t[..., 0, 0], (p * d)[1] / temperature[1] ** 2, atol=0, rtol=1e-12)


@pytest.mark.parametrize("row", DIFFERENTIATED)
def test_second_derivatives_by_the_temperature(row: Row) -> None:
    """d²F/dT² = −C/T; d² log Z/dβ² is the variance of the energy."""
    with row.framework.session():
        energies = row.array(ENERGIES[1])
        for one in (0.1, 0.7, 30.0):
            variance = float(heat_capacity(ENERGIES[1], one)) * one**2
            t, beta = row.array([one]), row.array([1.0 / one])
            second = row.host(row.framework.hessian(lambda t: free_energy(energies, t[0]), t))  # type: ignore[misc]
            same(second, -variance / one**3, atol=0, rtol=1e-11)
            second = row.host(
                row.framework.hessian(lambda b: log_partition(energies, 1.0 / b[0]), beta)  # type: ignore[misc]
            )
            same(second, variance, atol=0, rtol=1e-11)


@pytest.mark.parametrize("row", DIFFERENTIATED)
def test_derivatives_by_log_g(row: Row) -> None:
    energies, t = ENERGIES[1], 0.7
    log_g = np.where(np.arange(8) == 2, -INF, LOG_G[1])
    with row.framework.session():
        of = all_of(row, energies, t, log_degeneracy=row.array(log_g))
        p, d = of["boltzmann"], energies - of["mean_energy"]
        right = {
            log_partition: p,
            free_energy: -t * p,
            mean_energy: p * d,
            gibbs_entropy: p * (1 + d / t),
            heat_capacity: p * (d**2 / t**2 - of["heat_capacity"]),
        }
        for function, slope in right.items():
            by_g = partial(function, row.array(energies), row.array(t))
            found = jacobian(row, lambda g, of=by_g: of(log_degeneracy=g), row.array(log_g))  # type: ignore[misc]
            same(found, slope)


@pytest.mark.parametrize("row", DIFFERENTIATED)
def test_derivatives_are_never_nan(row: Row) -> None:
    """At the limits, beside absent levels, in rows of nothing, and where 1/T² is not in range."""
    table = np.array([[0.0, 1.0, INF, 2.0], [INF, INF, INF, INF], [-INF, 0.0, 1.0, 2.0], [1e300, -1e300, 0.0, 0.0]])
    kept = np.array([[True, True, True, False]] * 3 + [[True] * 4])
    with row.framework.session():
        where, log_g = row.array(kept, "bool"), row.array([0.0, -INF, 1.0, 2.0])
        both = {"where": where, "log_degeneracy": log_g}
        compiled = row.backend == "jax"  # anew for each function and each options: some of them are enough
        for options in (both,) if compiled else ({}, {"where": where}, {"log_degeneracy": log_g}, both):
            for function in (boltzmann, free_energy, gibbs_entropy) if compiled else (boltzmann, *REDUCTIONS):
                by_energies: Any = partial(function, **options)

                def by_temperature(t: Any, x: Any, of: Any = by_energies) -> Any:
                    return of(x, t)

                for one in (0.0, 1e-300, 1e-160, 0.5, 1e160, INF):
                    energies, t = row.array(table), row.array(np.full((4, 1), one))
                    value = row.host(by_energies(energies, t))
                    defined = np.isfinite(value) if value.ndim == 1 else np.isfinite(value).all(-1)
                    for of, arguments in ((by_energies, (energies, t)), (by_temperature, (t, energies))):
                        found = row.host(row.framework.jacobian(of, *arguments))  # type: ignore[misc]
                        assert not np.isnan(found[defined]).any(), (function, one, of)


@pytest.mark.parametrize("row", rows("torch", dtypes=("float64",)))
@pytest.mark.parametrize("function", [boltzmann, *REDUCTIONS])
def test_numerical_differentiation_agrees(row: Row, function: Any) -> None:
    torch = importlib.import_module("torch")
    energies = row.array(ENERGIES[:2, :4]).requires_grad_()
    t = row.array([[0.6], [4.0]]).requires_grad_()
    log_g = row.array(LOG_G[:2, :4].astype(float)).requires_grad_()

    def of(energies: Any, t: Any, log_g: Any) -> Any:
        return function(energies, t, log_degeneracy=log_g)

    assert torch.autograd.gradcheck(of, (energies, t, log_g))
    assert torch.autograd.gradgradcheck(of, (energies, t, log_g))


# ---------------------------------------------------------------------------------------------------------------------
# Transformations


def test_under_jax() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    energies, t = jax.numpy.asarray(ENERGIES[:3, :4], "float32"), jax.numpy.asarray([0.5, 1.0, 3.0], "float32")
    for function in (boltzmann, *REDUCTIONS):
        whole = function(energies, t[:, None])
        np.testing.assert_allclose(jax.jit(function)(energies, t[:, None]), whole, rtol=2e-6)
        np.testing.assert_allclose(jax.vmap(function)(energies, t), whole, rtol=2e-6)


def test_under_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    energies, t = torch.from_numpy(ENERGIES[:3, :4]), torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    for function in (boltzmann, *REDUCTIONS):
        whole = function(energies, t[:, None])
        np.testing.assert_allclose(torch.func.vmap(function)(energies, t), whole, rtol=1e-13)
        if function in (boltzmann, free_energy):  # half a minute for all, which share what could break a graph
            compiled = torch.compile(function, fullgraph=True, backend="eager")
            np.testing.assert_array_equal(compiled(energies, t[:, None]), whole)
