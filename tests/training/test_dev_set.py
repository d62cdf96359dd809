"""Dev values: losses of the dev lists, nDCG@10 in a pool, both by the definition."""

import dataclasses

import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize, ListTable
from ldx.data.plan import BatchPlanner
from ldx.data.tokens import TokensInMemory
from ldx.models.student import load_student
from ldx.parallel.mesh import make_mesh
from ldx.retrieval.encoder import Encoder
from ldx.step.objective import make_objective
from ldx.training.dev_set import DevSet, evaluate_sources
from ldx.training.dev_values import DevValues, read_dev_values, write_dev_values
from tests import toy
from tests.helpers import count_compilations

NUM_PASSAGES = 30
OBJECTIVE = make_objective({"listwise_kl": {"weight": 1.0}, "info_nce": {"weight": 0.1}})


@pytest.fixture(scope="module")
def parts(tiny_bert):
    rng = np.random.default_rng(0)
    texts = toy.make_texts(rng, NUM_PASSAGES, 8)
    lists = [toy.make_list(rng, i, texts, 4) for i in range(6)]
    student = load_student(str(tiny_bert))
    queries = [record.query for record in lists]
    planner = make_planner(student, texts, queries)
    encoder = Encoder(student, mesh=make_mesh(1), microbatch_tokens=256)
    return student, texts, lists, planner, encoder


def make_planner(student, texts, queries, num_queries=8):
    return BatchPlanner(
        TokensInMemory(student.tokenizer.encode(texts)),
        TokensInMemory(student.tokenizer.encode(queries)),
        student.tokenizer,
        query_max_length=32,
        passage_max_length=32,
        shapes=Shapes.make(32, 256),
        size=BatchSize(num_queries, 4, NUM_PASSAGES),
    )


def by_type(query_type):
    """What records say where people judged for all queries that people wrote."""
    return ["people"] if query_type in ("human", "human_dev") else []


def make_dev(parts, lists=None, judged=(), pool_size=20, seed=0, num_queries=8, judges_of=by_type):
    student, texts, all_lists, planner, encoder = parts
    if num_queries != 8:
        planner = make_planner(student, texts, [x.query for x in all_lists], num_queries)
    queries = {record.query: i for i, record in enumerate(all_lists)}
    return DevSet(
        ListTable.read(all_lists if lists is None else lists, queries),
        ListTable.read(judged, queries),
        planner,
        encoder,
        OBJECTIVE,
        judges_of=judges_of,
        num_passages=NUM_PASSAGES,
        pool_size=pool_size,
        seed=seed,
    )


def test_values_equal_the_definition(parts):
    student, texts, lists, _, encoder = parts
    dev = make_dev(parts, pool_size=28)
    values = dev.evaluate(student.params).means
    queries = encoder.encode(student.params, [r.query for r in lists], kind="query")
    passages = encoder.encode(student.params, texts, kind="passage")
    divergences, gains = [], []
    for query, record in zip(queries, lists, strict=True):
        student_logs = passages[record.rows] @ query / 0.05
        student_logs -= np.log(np.exp(student_logs).sum())
        teacher = np.exp(record.teacher_scores / 0.3)
        teacher /= teacher.sum()
        divergences.append(np.sum(teacher * (np.log(teacher) - student_logs)))
        scores = passages[dev.pool] @ query
        own = scores[list(dev.pool).index(record.rows[0])]
        place = 1 + int((scores > own).sum())
        gains.append(1 / np.log2(place + 1) if place <= 10 else 0)
    np.testing.assert_allclose(values["dev/listwise_kl"], np.mean(divergences), rtol=1e-4)
    np.testing.assert_allclose(values["dev/nDCG@10"], np.mean(gains), rtol=1e-6)
    total = values["dev/listwise_kl"] + 0.1 * values["dev/info_nce"]
    np.testing.assert_allclose(values["dev/total"], total, rtol=1e-5)


def test_a_loss_is_the_mean_of_the_lists_that_have_it_however_they_are_cut(parts):
    """Lists whose first entry was judged and is not relevant have no info_nce."""
    grades = [[0, 1, -1, -1]] * 2 + [[1, 0, -1, -1]] + [[-1] * 4] * 3
    lists = [
        dataclasses.replace(record, labels=np.array(labels, np.int32))
        for record, labels in zip(parts[2], grades, strict=True)
    ]
    # The denominators differ between cuts, so a lone list in each part is compared with itself.
    alone = [make_dev(parts, [x]).evaluate(parts[0].params).means for x in lists]
    means = make_dev(parts, lists, num_queries=1).evaluate(parts[0].params).means
    for name, with_loss in (("listwise_kl", alone), ("info_nce", alone[2:])):
        expected = np.mean([each[f"dev/{name}"] for each in with_loss])
        assert means[f"dev/{name}"] == pytest.approx(expected, rel=1e-5)
    total = means["dev/listwise_kl"] + 0.1 * means["dev/info_nce"]
    assert means["dev/total"] == pytest.approx(total, rel=1e-6)


def test_pool_is_the_union_filled_up_by_seed(parts):
    rows = {int(row) for record in parts[2] for row in record.rows}
    pools = [make_dev(parts, pool_size=len(rows) + 3, seed=seed).pool for seed in (0, 0, 1)]
    for pool in pools:
        assert rows <= set(pool.tolist())
        assert len(pool) == len(rows) + 3
    np.testing.assert_array_equal(pools[0], pools[1])
    assert set(pools[0]) != set(pools[2])


def test_lists_that_do_not_fit_are_left_out(parts):
    dev, whole = make_dev(parts, pool_size=9), make_dev(parts)
    assert len(dev.pool) == 9
    fitting = [parts[2][i] for i in dev.searched]
    assert 0 < len(fitting) < len(parts[2])
    assert {int(row) for record in fitting for row in record.rows} <= set(dev.pool.tolist())
    params = parts[0].params
    for name in ("dev/listwise_kl", "dev/info_nce"):  # of all lists, whatever the pool
        some, every = dev.evaluate(params), whole.evaluate(params)
        np.testing.assert_allclose(some.means[name], every.means[name], 1e-5)
    with pytest.raises(UserError, match="dev_pool=3"):
        make_dev(parts, pool_size=3)


def test_an_evaluation_after_compile_compiles_nothing(parts):
    dev = make_dev(parts, pool_size=27)  # of a size that no other test has
    dev.compile(parts[0].params)
    compiled: list[str] = []
    with count_compilations(compiled):
        dev.evaluate(parts[0].params)
    assert compiled == []


def test_no_dev_list_is_an_error(parts):
    with pytest.raises(UserError, match="dev_fraction"):
        make_dev(parts, lists=[])


def test_several_sources_are_weighted_by_their_dev_lists(parts):
    student, _, lists, _, _ = parts
    sets = {"small": make_dev(parts, lists[:2]), "large": make_dev(parts, lists)}
    values = evaluate_sources(sets, student.params).means
    own = {name: dev.evaluate(student.params).means for name, dev in sets.items()}
    for key in ("total", "nDCG@10"):
        mean = (2 * own["small"][f"dev/{key}"] + 6 * own["large"][f"dev/{key}"]) / 8
        assert values[f"dev/{key}"] == pytest.approx(mean)
        assert values[f"dev/small/{key}"] == own["small"][f"dev/{key}"]
    alone = evaluate_sources({"large": sets["large"]}, student.params).means
    assert alone == own["large"]


def test_a_loss_is_weighted_by_the_lists_that_have_it(parts):
    """InfoNCE has none of a list whose first entry was judged not to be relevant."""
    student, _, lists, _, _ = parts
    bad = np.array([0, -1, -1, -1], np.int32)
    lists = [
        dataclasses.replace(x, labels=bad, query_type="human") if i < 3 else x
        for i, x in enumerate(lists)
    ]
    sets = {"one": make_dev(parts, lists[:4]), "two": make_dev(parts, lists[4:])}
    together = make_dev(parts, lists).evaluate(student.params).means
    values = evaluate_sources(sets, student.params).means
    own = {name: dev.evaluate(student.params).means for name, dev in sets.items()}
    assert [sets[name].num_lists["info_nce"] for name in sets] == [1, 2]
    info_nce = (own["one"]["dev/info_nce"] + 2 * own["two"]["dev/info_nce"]) / 3
    assert values["dev/info_nce"] == pytest.approx(info_nce)
    # Each list's KL is its own, so the mean over sources is that of one source of all lists.
    assert values["dev/listwise_kl"] == pytest.approx(together["dev/listwise_kl"])
    total = values["dev/listwise_kl"] + 0.1 * values["dev/info_nce"]
    assert values["dev/total"] == pytest.approx(total)


def test_peoples_dev_queries_are_searched_and_have_no_loss(parts):
    student, texts, lists, _, encoder = parts
    record = lists[5]
    grades = np.array([1, 0, 2, -1], np.int32)
    judged = dataclasses.replace(record, labels=grades, query_type="human_dev")
    dev, plain = make_dev(parts, lists[:3], [judged]), make_dev(parts, lists[:3])
    values = dev.evaluate(student.params)
    assert values.judged_by == "human queries judged by people"
    assert plain.evaluate(student.params).judged_by == "synthetic queries"
    assert values.means["dev/total"] == pytest.approx(
        plain.evaluate(student.params).means["dev/total"]
    )
    (query,) = encoder.encode(student.params, [record.query], kind="query")
    passages = encoder.encode(student.params, texts, kind="passage")
    order = dev.pool[np.argsort(-(passages[dev.pool] @ query))][:10]
    grades = {int(record.rows[0]): 1, int(record.rows[2]): 2}
    gain = sum(grades.get(int(row), 0) / np.log2(i + 2) for i, row in enumerate(order))
    ideal = 2 + 1 / np.log2(3)
    assert values.per_query == {record.list_id: pytest.approx(gain / ideal)}
    assert values.means["dev/nDCG@10"] == pytest.approx(gain / ideal)


def test_values_are_kept_by_step(parts, tmp_path):
    values = make_dev(parts).evaluate(parts[0].params)
    write_dev_values(tmp_path, 3, values)
    assert read_dev_values(tmp_path, 3) == (values.per_query, "synthetic queries")
    with pytest.raises(UserError, match="step 4"):
        read_dev_values(tmp_path, 4)


@pytest.mark.parametrize(
    ("judges", "told"),
    [
        (["people"], "human queries judged by people"),
        (["a language model"], "human queries judged by a language model"),
        (["people", "a language model"], "human queries judged by people and a language model"),
        (["the teacher"], "human queries judged by the teacher"),
        ([], "synthetic queries"),
    ],
)
def test_whose_queries_dev_lists_are_and_who_judged(parts, judges, told):
    lists = [dataclasses.replace(record, query_type="human") for record in parts[2]]
    judges_of = {"human": judges}.get
    values = make_dev(parts, lists, judges_of=judges_of).evaluate(parts[0].params)
    assert values.judged_by == told


def test_several_kinds_of_dev_queries_are_counted(parts):
    lists = [dataclasses.replace(record, query_type="human") for record in parts[2][:2]]
    judges = {"human": ["a language model"], parts[2][2].query_type: []}
    values = make_dev(parts, lists + parts[2][2:], judges_of=judges.get).evaluate(parts[0].params)
    assert values.judged_by == "queries: 2 human judged by a language model, 4 synthetic"


def test_the_queries_of_a_log_stand_between_judged_and_made_ones(parts):
    types = ["log", "human", *["title"] * 4]
    judges = {"log": ["the teacher"], "human": ["people"], "title": []}
    lists = [
        dataclasses.replace(record, query_type=query_type)
        for record, query_type in zip(parts[2], types, strict=True)
    ]
    values = make_dev(parts, lists, judges_of=judges.get).evaluate(parts[0].params)
    told = "queries: 1 human judged by people, 1 human judged by the teacher, 4 synthetic"
    assert values.judged_by == told


def test_what_older_runs_kept_is_read(parts, tmp_path):
    for told, expected in (("human", "human queries"), ("synthetic", "synthetic queries")):
        write_dev_values(tmp_path, 0, DevValues({}, {"q": 0.5}, told))
        assert read_dev_values(tmp_path, 0) == ({"q": 0.5}, expected)


def test_sources_of_people_and_of_none(parts):
    """nDCG@10 weighs searched queries, losses weigh lists."""
    student, _, lists, _, _ = parts
    judged = [dataclasses.replace(lists[5], labels=np.array([1, 0, 2, -1], np.int32))]
    judged = [dataclasses.replace(judged[0], query_type="human_dev")]
    sets = {"judged": make_dev(parts, lists[:3], judged), "made": make_dev(parts, lists)}
    values = evaluate_sources(sets, student.params)
    own = {name: dev.evaluate(student.params).means for name, dev in sets.items()}
    ndcg = (1 * own["judged"]["dev/nDCG@10"] + 6 * own["made"]["dev/nDCG@10"]) / 7
    assert values.means["dev/nDCG@10"] == pytest.approx(ndcg)
    total = (3 * own["judged"]["dev/total"] + 6 * own["made"]["dev/total"]) / 9
    assert values.means["dev/total"] == pytest.approx(total)
    assert values.judged_by == "queries: 1 human judged by people, 6 synthetic"
    assert len(values.per_query) == 7
