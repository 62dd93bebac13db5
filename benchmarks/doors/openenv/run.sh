uvicorn server:app &
# the folder rows/ holds units.jsonl
trl grpo --model_name_or_path Qwen/Qwen3-0.6B --dataset_name rows --reward_funcs rew.reward
