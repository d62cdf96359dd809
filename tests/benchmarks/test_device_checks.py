"""What a device is held to: the float64 formulas, and that a coarse device is found out."""

import numpy as np

from ldx.losses import info_nce
from tests.benchmarks.device_checks import (
    RATIO,
    TEMPERATURE,
    TOLERANCE,
    float64_cases,
    info_nce_float64,
    matmul_rate,
    relative_error,
)


def test_float32_on_the_cpu_is_fine():
    cases = {case.case: case for case in float64_cases(8, 4, 30, 16)}
    assert len(cases) == 6
    assert all(0 <= case.ours < TOLERANCE for case in cases.values())


def test_the_formula_is_info_nce():
    rng = np.random.default_rng(0)
    queries, passages = (rng.normal(size=(n, 4)).astype(np.float32) / 50 for n in (3, 6))
    index = np.array([[0, 1], [1, 2], [1, 5]])
    teacher = np.array([[1, 0.2], [0.9, 0.8], [0.5, 0.1]], np.float32)
    values, _ = info_nce_float64(queries, passages, index, teacher)
    settings = {"temperature": TEMPERATURE, "false_negative_ratio": RATIO}
    expected = info_nce(queries, passages, index, teacher, **settings, reduce_fn=None)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_coarse_numbers_are_over_the_tolerance():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=100)
    assert relative_error(exact, exact) == 0
    assert relative_error(exact.astype(np.float16), exact) > TOLERANCE


def test_the_rate_of_a_product_is_positive():
    assert matmul_rate("float32", 32, repeats=2) > 0
