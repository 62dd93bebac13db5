python3 rows.py
# the same rows stand for the validation file, which has to be given
python3 -m verl.trainer.main_ppo algorithm.adv_estimator=grpo data.train_files=rows.parquet data.val_files=rows.parquet \
    actor_rollout_ref.model.path=Qwen/Qwen3-0.6B actor_rollout_ref.actor.use_dynamic_bsz=true \
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8 actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
    reward.custom_reward_function.path=rew.py trainer.n_gpus_per_node=1 trainer.save_freq=10 trainer.logger=console
