"""Interprets the subset of Argo that the exporter writes: steps, DAGs, containers called in this process, recursion."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from instar.pipelines import stage_command
from instar.pipelines.chain import control_command

_ADD = re.compile(r"\{\{=asInt\(inputs\.parameters\.(\w+)\) \+ (\d+)\}\}")
_PLAIN = re.compile(r"\{\{([\w.-]+)\}\}")


class Argo:
    """Runs a workflow. `calls` lists the container templates that ran; `dies_before` names one before which all stops."""

    def __init__(
        self,
        workflow: dict[str, Any],
        parameters: dict[str, str],
        folder: Path,
        uid: str = "0f9d6c1e",
        dies_before: str = "",
    ) -> None:
        self.dies_before = dies_before
        self.templates = {t["name"]: t for t in workflow["spec"]["templates"]}
        given = {p["name"]: p.get("value", "") for p in workflow["spec"]["arguments"]["parameters"]}
        self.globals = {f"workflow.parameters.{n}": v for n, v in {**given, **parameters}.items()} | {
            "workflow.uid": uid
        }
        self.folder, self.calls, self.depth = folder, list[str](), 0

    def run(self, name: str, arguments: dict[str, str]) -> dict[str, str]:
        """Run a template and return its output parameters."""
        template = self.templates[name]
        declared = {p["name"] for p in template.get("inputs", {}).get("parameters", [])}
        assert declared <= set(arguments), (name, declared - set(arguments))
        scope = self.globals | {f"inputs.parameters.{n}": v for n, v in arguments.items() if n in declared}
        if "container" in template:
            return self._container(template, scope)
        if "dag" in template:
            return self._dag(template, scope)
        self.depth += 1
        for group in template["steps"]:
            for step in group:
                if "when" in step:
                    left, right = fill(step["when"], scope).split(" == ")
                    if left != right:
                        continue
                made = self.run(step["template"], _arguments(step, scope))
                scope |= {f"steps.{step['name']}.outputs.parameters.{n}": v for n, v in made.items()}
        return {}

    def _dag(self, template: dict[str, Any], scope: dict[str, str]) -> dict[str, str]:
        waiting, done = list(template["dag"]["tasks"]), set[str]()
        while waiting:
            task = next(t for t in waiting if {d for d in t.get("depends", "").split(" && ") if d} <= done)
            waiting.remove(task)
            made = self.run(task["template"], _arguments(task, scope))
            scope |= {f"tasks.{task['name']}.outputs.parameters.{n}": v for n, v in made.items()}
            done.add(task["name"])
        return {p["name"]: fill(p["valueFrom"]["parameter"], scope) for p in template["outputs"]["parameters"]}

    def _container(self, template: dict[str, Any], scope: dict[str, str]) -> dict[str, str]:
        if template["name"] == self.dies_before:
            raise InterruptedError(self.dies_before)
        self.calls.append(template["name"])
        outputs = self.folder / f"{len(self.calls):04d}"
        container = template["container"]
        words = [
            fill(w, scope).replace("/tmp/outputs", str(outputs)) for w in (*container["command"], *container["args"])
        ]
        assert words[:4] == ["instar", "supervise", "--", "instar"]
        before = dict(os.environ)
        plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        os.environ.update({n: v for n, v in plain.items() if n not in ("INSTAR_S3_ENDPOINT", "MLFLOW_TRACKING_URI")})
        try:
            assert {"stage": stage_command.main, "control": control_command.main}[words[4]](words[5:]) == 0
        finally:
            os.environ.clear()
            os.environ.update(before)
        made = template.get("outputs", {}).get("parameters", [])
        return {p["name"]: (outputs / Path(p["valueFrom"]["path"]).name).read_text() for p in made}


def _arguments(node: dict[str, Any], scope: dict[str, str]) -> dict[str, str]:
    return {p["name"]: fill(p["value"], scope) for p in node.get("arguments", {}).get("parameters", [])}


def fill(text: str, scope: dict[str, str]) -> str:
    """Replace references; one that nothing defines is an error."""
    text = _ADD.sub(lambda m: str(int(scope[f"inputs.parameters.{m[1]}"]) + int(m[2])), text)
    return _PLAIN.sub(lambda m: scope[m[1]], text)
