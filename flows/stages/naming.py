"""Names in params.yaml that a command writes there: a suite, scored and gated. Comments and everything else stay."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from flows.stages.parameters import load
from flows.stages.pipeline import scoring_sections
from flows.stages.recipes import differences, dumped
from models.core.errors import UserError
from models.core.files import write_whole
from tasks.gate.verdicts import reach


def name_suite(root: Path, name: str, size: int, margin: float | None) -> list[str]:
    """Have params.yaml of the workspace at `root` name a suite of `size` items; return what changed, a line each.

    Where no margin is given, one that stands there is kept, and a new suite gets the one that its items can decide.
    Raises UserError where there is no gate, or no list of suites.
    """
    params_file = root / "params.yaml"
    before = load(params_file)
    values = YAML().load(params_file.read_text(encoding="utf-8"))
    suites, gate = values.get("suites"), values.get("gate")
    if not isinstance(suites, list) or not isinstance(gate, dict) or not isinstance(gate.get("suites"), dict):
        raise UserError(f"{params_file.name}: suites and gate.suites must be there, to name {name}; 'sluice recipe show tiny' prints them")
    if name not in suites:
        suites.append(name)
    asked = [values[section].setdefault("items", CommentedMap()) for section in scoring_sections(root) & values.keys()]
    for items in asked:
        items.setdefault(name, None)
    decided = reach(size, float(gate.get("alpha", 0.05)))
    if gate["suites"].get(name) is None:
        gate["suites"][name] = CommentedMap({"margin": decided, "floor": None, "require": "non-inferior"})
    policy = gate["suites"][name]
    if margin is not None:
        policy["margin"] = margin
    for brief in (suites, *asked, policy):  # on one line each, as recipes have them; [] and {} do not say so themselves
        brief.fa.set_flow_style()
    changed = list(differences(before, values))
    if changed:
        write_whole(params_file, dumped(values).encode())
    said = f"{size:,} items can decide a margin of {decided:.2f} or more"
    return [*(f"{params_file.name}  {line}" for line in changed or [f"names {name} already"]), said]
