"""Tests of data_prep/engines/flags.py: `data_prep.run` hands flags on to stages that have them."""

from data_prep.engines.flags import without_engine_flags


def test_the_flags_of_an_engine_are_left_out_however_they_are_written():
    others = ["--config=c.py", "--workdir", "engine", "--config.prep.engine=ray"]
    of_engine = ["--engine=ray", "-ray_cpus", "2", "--ray_address", "auto", "--ray_workers=3"]
    mixed = [others[0], *of_engine[:3], *others[1:3], *of_engine[3:], others[3]]
    assert without_engine_flags(mixed) == others
