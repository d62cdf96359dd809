"""The table of what the keys of a config may be."""

import pytest

from configs import base
from ldx.common.errors import UserError
from ldx.common.rules import ELSEWHERE, RULES, check_values
from ldx.common.sections import flatten_config


def config_with(key, value):
    config = base.get_config().to_dict()
    *sections, name = key.split(".")
    section = config
    for each in sections:
        section = section[each]
    section[name] = value
    return config


def test_every_key_has_a_rule_and_every_rule_a_key():
    keys = flatten_config(base.get_config().to_dict())
    own = {key for key in keys if not key.startswith(tuple(f"{name}." for name in ELSEWHERE))}
    assert own <= set(RULES)
    assert set(RULES) <= set(keys)


def test_the_defaults_are_allowed():
    check_values(base.get_config().to_dict())


@pytest.mark.parametrize(
    "key",
    [key for key in RULES if not RULES[key].accepts("a text")],
)
@pytest.mark.parametrize("value", ["a text", float("nan"), [], {}, -1, True], ids=repr)
def test_what_a_key_cannot_be_is_named(key, value):
    """No value ends in anything but a message, whatever the key."""
    if RULES[key].accepts(value) or isinstance(value, dict):
        check_values(config_with(key, value))
        return
    with pytest.raises(UserError, match=rf"^config\.{key}=.*: wanted "):
        check_values(config_with(key, value))


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("optim.clip_norm", 0.0, "a number over 0 or None"),
        ("optim.b2", 1.0, "a number of at least 0 and under 1"),
        ("optim.warmup_steps", 2.5, "a whole number of at least 0 or auto"),
        ("loss.matryoshka.dims", 64, "whole numbers in brackets or None"),
        ("logging.every_steps", 0, "a whole number of at least 1"),
        ("checkpoint.every_minutes", None, "a number of at least 0"),
        ("train.stop_on", "never", "loss, ndcg or None"),
        ("prep.dev_fraction", 1, "a number over 0 and under 1"),
    ],
)
def test_the_message_says_what_is_allowed(key, value, wanted):
    with pytest.raises(UserError) as caught:
        check_values(config_with(key, value))
    assert str(caught.value) == f"config.{key}={value!r}: wanted {wanted}"


def test_a_key_that_there_is_not_is_named():
    config = base.get_config().to_dict()
    config["train"]["num_stepz"] = 3
    with pytest.raises(UserError, match=r"config\.train\.num_stepz: .*mean train\.num_steps\?"):
        check_values(config)
