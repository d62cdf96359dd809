"""The plan of a batch: each text once, the same on every process."""

import dataclasses

import numpy as np
import pytest

from ldx.data.tokens import TokensInMemory
from tests.step.step_problems import Problem, make_plan, make_planner


def test_a_plan_embeds_each_text_once():
    problem = Problem.make()
    plan = make_plan(problem, make_planner(problem))
    rows = {int(row) for r in problem.records for row in r.rows}
    assert plan.num_distinct_passages == len(rows)
    assert plan.num_slots == sum(len(r.rows) for r in problem.records)
    assert plan.query_position[0] == plan.query_position[1]
    assert not plan.lists.where[len(problem.records) :].any()
    assert len(plan.token_batches) > 1


class CountingTokens(TokensInMemory):
    """Notes which rows are read."""

    def __init__(self, ids):
        super().__init__(ids)
        self.read = []

    def __getitem__(self, row):
        self.read.append(int(row))
        return super().__getitem__(row)


def test_every_process_makes_the_same_plan_and_reads_only_what_it_embeds():
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    whole = make_plan(problem, make_planner(problem, 8))
    parts, rows_read = [], []
    for local in ((0, 1, 2, 3), (4, 5), (6, 7)):
        passages = CountingTokens(problem.passages)
        planner = make_planner(problem, 8, local=local)
        planner._passages = passages
        parts.append(make_plan(problem, planner))
        rows_read += passages.read
    for part in parts:
        np.testing.assert_array_equal(part.digest(), whole.digest())
    for i, batch in enumerate(whole.token_batches):
        joined = np.concatenate([part.token_batches[i].token_ids for part in parts])
        np.testing.assert_array_equal(joined, batch.token_ids)
    assert sorted(rows_read) == sorted({int(row) for r in problem.records for row in r.rows})


def test_plans_of_different_batches_have_different_digests():
    problem = Problem.make()
    planner, table = make_planner(problem), problem.table()
    digests = [planner(table, np.array(n)).digest().tolist() for n in ([0, 1], [1, 0], [0, 2])]
    assert digests[0] != digests[1] != digests[2] != digests[0]
    # The same structure over other passages.
    moved = dataclasses.replace(table, rows=(table.rows + 1) % len(problem.passages))
    assert planner(moved, np.array([0])).digest().tolist() != digests[0]


@pytest.mark.parametrize("name", ["list_index", "teacher_scores", "labels", "where"])
def test_a_digest_is_of_the_lists_but_for_the_guide(name):
    problem = Problem.make()
    plan = make_plan(problem, make_planner(problem))
    changed = getattr(plan.lists, name).copy()
    changed[0, 0] = not changed[0, 0] if changed.dtype == bool else changed[0, 0] + 1
    other = dataclasses.replace(plan, lists=dataclasses.replace(plan.lists, **{name: changed}))
    assert other.digest().tolist() != plan.digest().tolist()
    guided = dataclasses.replace(plan.lists, guide_queries=changed, guide_passages=changed)
    assert dataclasses.replace(plan, lists=guided).digest().tolist() == plan.digest().tolist()
