import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from documents import make_document, make_pool, plain_documents

from pretrain import tasks
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Family, Head, Settings


def test_every_task_module_is_listed_in_curriculum_order():
    modules = [
        importlib.import_module(f"pretrain.tasks.{found.name}") for found in pkgutil.iter_modules(tasks.__path__)
    ]
    assert {module.SPEC.name for module in modules if hasattr(module, "SPEC")} == set(TASKS)
    families = [spec.family for spec in TASKS.values()]
    assert families == sorted(families, key=list(Family).index)


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_a_task_is_named_after_its_module_and_says_what_it_needs(spec):
    assert importlib.import_module(f"pretrain.tasks.{spec.name}").SPEC is spec
    assert spec.summary and spec.needs


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_heads_have_what_they_need(spec):
    assert (spec.labels is None) == (spec.head is Head.MASKED_LM)
    assert (spec.target is None) == (spec.head is Head.SEQUENCE)
    if spec.labels is not None:
        for language in spec.languages:
            labels = spec.labels(Settings(language))
            assert len(set(labels)) == len(labels) > 1


@pytest.mark.parametrize("package", ["pretrain.tasks", "pretrain.schedule"])
def test_imports_nothing_heavy(package):
    code = f"import sys, {package}; print(*{{'torch', 'transformers', 'pandas', 'deepspeed'}} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not loaded.strip()


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_a_pool_without_documents_or_with_one_short_one_yields_no_error(spec):
    assert list(spec.build(make_pool())) == []
    list(spec.build(make_pool(make_document("a", ["Short."], title="Title"))))


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_a_score_of_nothing_is_a_number(spec):
    nothing = np.zeros(0, np.int64)
    score = spec.metric(nothing, nothing)
    assert score.value == 0 and score.chance == 0


@pytest.mark.parametrize("name", ["knowledge_masking", "sentence_reordering", "sentence_distance"])
def test_same_seed_same_instances(name):
    pool = make_pool(*plain_documents(5, 30), seed=3)
    assert list(TASKS[name].build(pool)) == list(TASKS[name].build(pool)) != []
