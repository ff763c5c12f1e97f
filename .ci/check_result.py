"""Fails unless the main job left one result in this folder, with finite Kendall τ_b within bounds."""

from __future__ import annotations

import json
import math
from pathlib import Path

(path,) = Path("runs/generalization").glob("*/ng-gnn/result.json")
result = json.loads(path.read_text())
taus = {key: result[key]["kendall_tau"]["mean"] for key in ("scores", "scrambled_scores")}
print(path, taus)
for key, tau in taus.items():
    if not (isinstance(tau, float) and math.isfinite(tau) and -1 <= tau <= 1):
        raise SystemExit(f"kendall_tau in {key} of {path} is {tau}; expected a number from -1 to 1")
