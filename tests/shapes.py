"""Pipelines of another shape than ours, as their users write them: dvc.yaml and params.yaml edited, nothing else."""

from pathlib import Path

from ruamel.yaml import YAML

POLISH = {
    "cmd": "sluice stage polish task=sft base=artifacts/sft sft=artifacts/polish",
    "deps": ["tasks/sft.py", "artifacts/sft", "artifacts/prepared/instructions"],
    "params": ["seed", "polish"],
    "outs": ["artifacts/polish"],
    "metrics": [{"metrics/polish.json": {"cache": False}}],
}


def edit(root: Path, name, change):
    """Change a YAML file of the workspace in place."""
    path, yaml = root / name, YAML()
    values = yaml.load(path.read_text())
    change(values)
    with path.open("w") as file:
        yaml.dump(values, file)


def based_on(root: Path, source):
    """Name `source` as the published model that base takes as it is."""

    def params(values):
        values["pretrained"] = source
        values["tokenizer"]["vocabulary"] = {"take": "pretrained"}
        values["base"] |= {"start": {"take": "pretrained"}, "training": None}

    edit(root, "params.yaml", params)


def polished(root: Path):
    """A second fine-tuning after the first; neither reward nor rlhf."""

    def stages(whole):
        whole["stages"]["polish"] = POLISH
        del whole["stages"]["reward"], whole["stages"]["rlhf"]

    def params(values):
        values["polish"] = values["sft"]
        values |= {"models": ["sft", "polish"], "candidate": "polish"}
        del values["reward"], values["rlhf"]

    edit(root, "dvc.yaml", stages)
    edit(root, "params.yaml", params)


def only_sft(root: Path):
    """Conversations and nothing else: no preferences, no prompts, and so neither reward nor rlhf."""
    missing = {f"artifacts/prepared/{kind}" for kind in ("preferences", "prompts")}

    def stages(whole):
        for name in ("reward", "rlhf"):
            del whole["stages"][name]
        for stage in whole["stages"].values():
            for role in ("deps", "outs"):
                stage[role] = [path for path in stage[role] if path not in missing]

    def params(values):
        values |= {"models": ["base", "sft"], "candidate": "sft"}
        for kind in ("preferences", "prompts"):
            del values["validate"]["limits"][kind]
            del values["prepare"]["characters"][kind]
        del values["reward"], values["rlhf"]

    edit(root, "dvc.yaml", stages)
    edit(root, "params.yaml", params)


def shrunk(root: Path, source):
    """A recipe for a real model at nano size: a published base that is tiny, few steps, and a gate that asks little of it."""
    easy = YAML(typ="safe").load((root / "models" / "recipes" / "nano" / "params.yaml").read_text())["gate"]["health"]

    def params(values):
        values["pretrained"] = source
        values["gate"]["health"] |= easy
        for section in {"sft", "sft-2", "sft-3", "preference"} & values.keys():
            values[section] |= {"weights": {"train": "full"}, "epochs": 1, "batch_size": 8, "max_tokens": 512, "learning_rate": 0.001}
        if "soup" in values:
            values["soup"] |= {"mix": {"how": "uniform"}, "max_tokens": 512}  # greedy may end with one of the three as it is
        if values["base"]["training"]:
            values["base"]["blocks"] |= {"tokens": 64}
            values["base"]["training"] |= {"steps": 4}

    edit(root, "params.yaml", params)
