"""The report of a whole run: made by the run, kept with it in MLflow, and its numbers those that the stages left."""

import json
import re
import sqlite3

import pytest

from models.core.given import read_lines
from tests.workspaces import call, copy_of, run


@pytest.fixture(scope="module")
def report(finished):
    return json.loads(call(finished, "report", "--json").stdout)


@pytest.fixture(scope="module")
def workspace(finished, tmp_path_factory):
    return copy_of(finished, tmp_path_factory.mktemp("report") / "sluice")


def test_the_run_says_where_its_report_is(finished):
    assert "report    .sluice/report/report.html" in (finished / "first-run.txt").read_text()
    text = (finished / ".sluice" / "report" / "report.html").read_text()
    assert len(text) < 3_000_000
    assert "Version 1 is champion now: it passed on every suite." in text


def test_its_scores_curves_and_counts_are_those_that_the_stages_left(finished, report):
    for suite, models in report["scores"].items():
        for model, measured in models.items():
            assert measured == json.loads((finished / "metrics" / "benchmark" / f"{model}-{suite}.json").read_text())
    prepared = json.loads((finished / "metrics" / "prepare.json").read_text())
    assert report["data"]["read"] == prepared["read"]
    assert report["data"]["dropped"] == prepared["dropped"]
    assert sum(sum(counts.values()) for one in report["data"]["kinds"].values() for counts in one["by_source"].values()) == prepared["kept"]
    assert report["metrics"]["sft"] == json.loads((finished / "metrics" / "sft.json").read_text())
    assert report["curves"]["base"]["step"] == [10, 20, 30, 40]
    assert {"loss", "learning_rate", "gradient_norm"} <= set(report["curves"]["sft"])
    assert {"mean_reward", "kl_per_token", "entropy_per_token", "answer_tokens"} <= set(report["curves"]["rlhf"])


def test_every_model_answered_the_same_questions(finished, report):
    asked = [row["id"] for row in read_lines(finished / "artifacts" / "questions.jsonl")]
    assert len(asked) == 40
    assert {model: [row["id"] for row in rows] for model, rows in report["answers"].items()} == dict.fromkeys(
        ("base", "sft", "rlhf"), asked
    )


def test_it_says_when_each_stage_ran_and_what_it_took(report):
    ran = [one for one in report["time"]["stages"] if one["state"] == "ran"]
    assert len(ran) == len(report["time"]["stages"]) > 15
    assert all(one["started"] > 0 and one["host"] and one["peak_mib"] > 10 for one in ran)
    assert report["time"]["cost"] is None


def test_a_versions_report_is_that_of_the_run_that_made_it(workspace, report):
    found = json.loads(call(workspace, "report", "1", "--json").stdout)
    assert found == report
    done = call(workspace, "report", "champion", "--compare", "1")
    assert done.stdout == ".sluice/report/version-1-beside-1.html\n"
    assert "the other (version 1)" in (workspace / ".sluice" / "report" / "version-1-beside-1.html").read_text()


def test_mlflow_opens_the_experiment_as_one_of_trainings_and_says_what_a_version_is(workspace):
    with sqlite3.connect(workspace / ".sluice" / "mlflow.db") as store:
        kinds = store.execute("select value from experiment_tags where key = 'mlflow.experimentKind'").fetchall()
        [[description]] = store.execute("select description from model_versions").fetchall()
        read = store.execute("select name from datasets").fetchall()
        [[note]] = store.execute(
            "select t.value from tags t join tags n on n.run_uuid = t.run_uuid"
            " where t.key = 'mlflow.note.content' and n.key = 'mlflow.runName' and n.value like 'retrain %'"
        ).fetchall()
        metrics = {key for [key] in store.execute("select distinct key from latest_metrics").fetchall()}
    assert kinds == [("custom_model_development",)] * 2
    assert note == description
    assert "/artifacts/reports/report.html?workflowType=machine_learning" in note
    assert description.startswith("**Version 1 is champion now: it passed on every suite.**")
    assert ("artifacts/prepared/instructions",) in read
    assert {"train/loss", "train/kl_per_token", "kl", "reward_gain"} <= metrics
    assert "loss" not in metrics


@pytest.mark.parametrize(("which", "said"), [("9", "has no version or alias '9'"), ("nobody", "has no version or alias 'nobody'")])
def test_a_version_that_is_not_there_is_one_line(workspace, which, said):
    done = call(workspace, "report", which)
    assert done.returncode == 2
    assert said in done.stderr


def test_before_any_run_there_is_no_report(workspace, tmp_path):
    empty = copy_of(workspace, tmp_path / "sluice")
    for path in (empty / ".sluice" / "report").iterdir():
        path.unlink()
    done = call(empty, "report")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run of this workspace has left a report" in done.stderr


@pytest.mark.slow
def test_of_a_run_that_a_stage_ended_the_report_says_which_and_why_and_shows_no_older_result_of_it(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(re.sub(r"(?m)^  max_kl: \S+", "  max_kl: 0.0000001", text))
    done = run(workspace, "sluice", "run")
    assert done.returncode == 1
    found = json.loads(call(workspace, "report", "--json").stdout)
    assert found["verdict"]["decision"] == "failed"
    assert "rlhf" in found["verdict"]["reason"]
    assert "max_kl" in found["verdict"]["reason"]
    assert {model for models in found["scores"].values() for model in models} == set(found["answers"]) == {"base", "sft"}
    assert "rlhf" not in found["metrics"]
    assert [one["name"] for one in found["time"]["stages"] if one["state"] == "failed"] == ["rlhf"]
    text = (workspace / ".sluice" / "report" / "report.html").read_text()
    assert "The run failed before there was anything to decide" in text
    assert "what there is to look at: .sluice/report/report.html" in done.stdout
