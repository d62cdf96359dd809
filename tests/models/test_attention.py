"""Attention equals its formula, and the implementation that fits the device is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.models.attention import attend, choose_attention
from ldx.models.student import load_student
from tests.models.helpers import tokens


def make_heads(seed=0):
    rng = np.random.default_rng(seed)
    heads = [jnp.asarray(rng.normal(size=(3, 7, 2, 4)), jnp.float32) for _ in range(3)]
    return heads, jnp.arange(7)[None] < jnp.array([[7], [4], [1]])


def test_equals_jax():
    (query, key, value), mask = make_heads()

    def ours(query, key, value):
        return jnp.where(mask[:, :, None, None], attend(query, key, value, mask, "xla"), 0)

    def theirs(query, key, value):
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :])
        return jnp.where(mask[:, :, None, None], mixed, 0)

    def value_and_gradients(mix):
        def total(*heads):
            mixed = mix(*heads)
            return jnp.sum(jnp.sin(mixed)), mixed

        return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(query, key, value)

    ((_, mixed), gradients), ((_, their_mixed), their_gradients) = map(
        value_and_gradients, (ours, theirs)
    )
    np.testing.assert_allclose(mixed, their_mixed, atol=1e-6)
    for gradient, their_gradient in zip(gradients, their_gradients, strict=True):
        np.testing.assert_allclose(gradient, their_gradient, atol=1e-6)


@pytest.mark.parametrize(
    ("backend", "dtype", "chosen"),
    [
        ("gpu", jnp.bfloat16, "cudnn"),
        ("gpu", jnp.float16, "cudnn"),
        ("gpu", None, "xla"),
        ("tpu", jnp.bfloat16, "xla"),
        ("cpu", jnp.bfloat16, "xla"),
    ],
)
def test_auto_takes_what_the_device_offers(backend, dtype, chosen):
    assert choose_attention("auto", dtype, backend) == chosen
    assert choose_attention("xla", dtype, backend) == "xla"
    if chosen != "cudnn":
        with pytest.raises(UserError, match=r"model\.attention=cudnn"):
            choose_attention("cudnn", dtype, backend)


def test_cudnn_is_given_lengths_and_no_mask(monkeypatch):
    (query, key, value), mask = make_heads()
    seen = {}

    def note(*heads, **settings):
        seen.update(settings)
        return heads[0]

    monkeypatch.setattr(jax.nn, "dot_product_attention", note)
    attend(query, key, value, mask, "cudnn")
    assert seen.pop("implementation") == "cudnn"
    assert set(seen) == {"query_seq_lengths", "key_value_seq_lengths"}
    for lengths in seen.values():
        np.testing.assert_array_equal(lengths, [7, 4, 1])


def test_remat_changes_no_number(tiny_bert):
    token_ids, mask = tokens()
    plain, again = (load_student(tiny_bert, remat=remat) for remat in (False, True))

    def loss(params, student):
        return jnp.sum(jnp.sin(3 * student.embed(params, token_ids, mask)))

    compiled = jax.jit(jax.value_and_grad(loss), static_argnames="student")
    values = [compiled(s.params, student=s) for s in (plain, again)]
    for ours, theirs in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    sizes = []
    for student in (plain, again):
        kept = jax.eval_shape(
            lambda p, s=student: jax.vjp(lambda p: s.embed(p, token_ids, mask), p)[1],
            student.params,
        )
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(kept)))
    assert sizes[1] < 0.8 * sizes[0]
