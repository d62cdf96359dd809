"""Tests of data_prep/pipeline/order.py."""

from configs import mediqa2019, sycl
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.settings import check_prep, graded_kinds, has_documents


def settings_of(config):
    return check_prep(config.prep.to_dict())


def test_stages_are_those_that_the_sources_need():
    config = sycl.get_config()

    def stages():
        return stages_of(settings_of(config))

    assert has_documents(settings_of(config))
    assert graded_kinds(settings_of(config)) == {"synthetic"}
    before, after = ("corpus", "generate_queries"), ("grade", "write_tfrecords")
    assert stages() == (*before, "generate_documents", *after)
    config.prep.graded.mined.num = 2
    assert stages() == (*before, "generate_documents", "mine", *after)
    for none in ((), []):
        with config.prep.unlocked():
            config.prep.graded.written.levels = none
        assert stages() == (*before, "mine", *after)
    assert stages_of(settings_of(sycl.get_config("smoke"))) == (*before, "mine", *after)
    assert stages_of(settings_of(mediqa2019.get_config())) == (*before, *after)
    config.prep.list_source = "teacher"
    assert "score" in stages()
    assert not has_documents(settings_of(config))
