"""The floors below are those beside this package: PYTHONPATH may lead to other packages of such common names as `models` or `tasks`."""

import importlib.util
import sys
from pathlib import Path

for name in ("models", "tasks"):
    place = Path(__file__).parents[1] / name
    spec = importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])
    if name not in sys.modules and spec is not None and spec.loader is not None:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
