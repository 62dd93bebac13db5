import json
from pathlib import Path

import verifiers.v1 as vf


class UnitsData(vf.TaskData):
    answer: str


class UnitsTask(vf.Task[UnitsData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float((trace.last_reply or "").strip() == self.data.answer)


class UnitsTaskset(vf.Taskset[UnitsTask, vf.TasksetConfig]):
    def load(self) -> list[UnitsTask]:
        rows = map(json.loads, Path("units.jsonl").read_text().splitlines())
        return [UnitsTask(UnitsData(idx=i, **row), self.config.task) for i, row in enumerate(rows)]
