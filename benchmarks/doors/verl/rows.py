from datasets import load_dataset


def row(example):
    return {
        "data_source": "units",
        "prompt": [{"role": "user", "content": example["prompt"]}],
        "reward_model": {"style": "rule", "ground_truth": example["answer"]},
    }


rows = load_dataset("json", data_files="units.jsonl", split="train")
rows.map(row, remove_columns=["answer"]).to_parquet("rows.parquet")
