"""requirements.lock cut by stage: what each can load, no more and no less."""

import json
import re
import subprocess
import sys

import pytest

from flows.stages import packages
from flows.stages.wiring import imported, reached, wire
from models.core.errors import UserError
from tests.workspaces import ROOT, environment, make_workspace

ANNOTATED = """\
jinja2==3
    # via
    #   torch
    #   fastapi
markupsafe==2
    # via jinja2
fastapi==1
    # via sluice (pyproject.toml)
scipy==1.17 ; python_full_version < '3.12'
    # via torch
scipy==1.18 ; python_full_version >= '3.12'
    # via torch
lm-eval==4
    # via sluice (pyproject.toml)
torch==2
    # via
    #   lm-eval
    #   sluice (pyproject.toml)
"""


TASKS = sorted(path.stem for path in (ROOT / "requirements").glob("*.lock"))


def test_a_cut_holds_what_the_modules_need_directly_or_not_with_all_markers():
    pins = packages.pins(ANNOTATED)
    torch = [
        "jinja2==3",
        "markupsafe==2",
        "scipy==1.17 ; python_full_version < '3.12'",
        "scipy==1.18 ; python_full_version >= '3.12'",
        "torch==2",
    ]
    assert packages.cut(pins, ["torch"]).splitlines() == torch
    assert packages.cut(pins, ["lm_eval", "jinja2"]).splitlines() == sorted([*torch, "lm-eval==4"])
    assert packages.cut(pins, ["jinja2"]) == "jinja2==3\nmarkupsafe==2\n"
    assert packages.cut(pins, []) == ""


def test_a_module_of_no_pinned_package_is_named():
    with pytest.raises(UserError, match=r"pins no package 'surprise-lib', which a stage imports as 'surprise_lib'"):
        packages.cut(packages.pins(ANNOTATED), ["surprise_lib"])


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path / "sluice", recipe="")


def rewired(workspace, package):
    """The lock files that another version of a package changes."""
    path = workspace / "requirements.lock"
    text, count = re.subn(rf"^{package}==\S+", f"{package}==999", path.read_text(), flags=re.MULTILINE)
    assert count, package
    path.write_text(text)
    return wire(workspace)


def of(*tasks):
    return [f"requirements/{task}.lock" for task in tasks]


@pytest.mark.parametrize("package", ["prefect", "mlflow", "dvc", "celery", "psycopg2-binary"])
def test_a_package_that_only_the_flows_use_changes_no_stage(workspace, package):
    assert rewired(workspace, package) == []


def test_a_new_package_that_only_the_flows_use_changes_no_stage(workspace):
    lock = workspace / "requirements.lock"
    lock.write_text(f"aardvark==1\n    # via prefect\n{lock.read_text()}")
    assert wire(workspace) == []


def test_another_lm_eval_changes_the_benchmark_and_the_listing_of_suites_alone(workspace):
    assert rewired(workspace, "lm-eval") == sorted(of("benchmark", "sources"))


def test_another_comparer_of_formulas_changes_what_scores_and_rewards_alone(workspace):
    assert rewired(workspace, "latex2sympy2-extended") == sorted(of("benchmark", "rlhf"))


def test_another_trl_changes_what_fine_tunes_alone(workspace):
    assert rewired(workspace, "trl") == of("preference", "reward", "rlhf", "sft", "soup")


def test_another_torch_changes_all_that_train_or_score_or_list_suites_and_no_other(workspace):
    trained = ("base", "preference", "reward", "rlhf", "sft", "soup")
    assert rewired(workspace, "torch") == sorted(of(*trained, "benchmark", "samples", "tokenizer", "sources"))


def test_another_great_expectations_changes_validate_alone(workspace):
    assert rewired(workspace, "great-expectations") == of("validate")


def test_the_lock_of_a_task_that_is_gone_goes_and_a_stage_that_is_no_task_has_none(workspace):
    for path in (workspace / "dvc.yaml", workspace / "models" / "recipes" / "tiny" / "dvc.yaml"):
        path.write_text(path.read_text().replace("  rlhf:\n", "  tuned:\n") + "  ours:\n    cmd: sh ours.sh\n    outs: [artifacts/ours]\n")
    assert wire(workspace) == of("rlhf")
    assert not (workspace / "requirements" / "rlhf.lock").exists()
    assert not (workspace / "requirements" / "ours.lock").exists()


LOADED = """
import importlib, json, os, sys
from importlib.metadata import packages_distributions
owners = packages_distributions()
def load(wanted, done):
    common = set.intersection(*wanted.values())
    for module in sorted(common - done):
        importlib.import_module(module)
    if len(wanted) == 1:
        names = sorted({key.partition(".")[0] for key in sys.modules} & owners.keys())
        print(json.dumps([*wanted, [owners[name] for name in names]]), flush=True)
        return
    others = [module for modules in wanted.values() for module in sorted(modules - common)]
    most = max(others, key=others.count, default="")
    with_it = {task: wanted[task] for task in wanted if most in wanted[task]} or dict([next(iter(wanted.items()))])
    for part in (with_it, {task: wanted[task] for task in wanted if task not in with_it}):
        if not (child := os.fork()):
            load(part, common)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
load({task: set(modules) for task, modules in json.loads(sys.argv[1]).items()}, set())
"""  # a process a task, forked where its modules part from those of the others: what all of them import is imported once
BYSTANDERS = """
    setuptools                                        Python loads it when it starts
    boto3 botocore s3transfer urllib3                 accelerate, to launch elsewhere
    mlflow opentelemetry-api requests sqlparse        trl, to report
    cachetools fastapi starlette sniffio zipp orjson
    pydantic-extra-types importlib-metadata
    databricks-sdk pytz
    pydot dill cloudpickle                            torch and joblib, to draw and to pickle
    redis cryptography wcwidth                        lm-eval's tables and locks
    charset-normalizer chardet                        numpy, to read Fortran
    sqlalchemy psycopg2-binary protobuf jmespath      great-expectations, for data in other stores
    docstring-parser jsonpointer rfc3339-validator    great-expectations and jsonschema, for what is not asked
"""  # loaded only because the flows have them installed; they touch no number


def test_what_only_a_type_checker_reads_is_no_part_of_a_stage(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / f"{name}.py").touch()
    text = "if TYPE_CHECKING:\n    from models import two\n    import torch\nelse:\n    import models.three\n"
    (tmp_path / "models" / "one.py").write_text(text)
    files = reached(tmp_path, "models.one")
    assert files == {"models/one.py", "models/three.py"}
    assert imported(tmp_path, files) == set()


@pytest.fixture(scope="module")
def owners():
    """By task, the packages that own each module that its code loads."""
    code = {task: reached(ROOT, f"tasks.{task}") for task in TASKS}
    modules = {
        task: [*(path.removesuffix(".py").replace("/", ".") for path in files), *imported(ROOT, files)] for task, files in code.items()
    }
    command = [sys.executable, "-c", LOADED, json.dumps(modules)]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_all_that_the_code_of_a_stage_loads_is_among_its_packages(owners, task):
    """Also what a library loads because it happens to be installed: packages.UNSEEN says so."""
    loaded = [{re.sub("[._]", "-", name.lower()) for name in names} for names in owners[task]]
    pinned, mine = (packages.pins((ROOT / name).read_text()).lines for name in ("requirements.lock", f"requirements/{task}.lock"))
    known = {*mine, *(word for line in BYSTANDERS.splitlines() for word in line[4:54].split())}
    assert [names for names in loaded if names & pinned.keys() and not names & known] == []
    assert any(names & mine.keys() for names in loaded)
