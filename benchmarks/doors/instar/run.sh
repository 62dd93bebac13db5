instar run sec --model Qwen/Qwen3-0.6B --tasks units.jsonl --reward rew.py:reward
