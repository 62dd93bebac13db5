import json
from pathlib import Path

AGENT = {"type": "responses_api_agents", "name": "units_simple_agent"}


def row(line):
    example = json.loads(line)
    create = {"input": [{"role": "user", "content": example["prompt"]}]}
    return json.dumps({"responses_create_params": create, "answer": example["answer"], "agent_ref": AGENT})


rows = map(row, Path("units.jsonl").read_text().splitlines())
Path("rows.jsonl").write_text("\n".join(rows) + "\n")
