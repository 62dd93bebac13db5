# the first command writes the server: app.py, which the one beside this file replaces, its YAML file and its requirements
gym env init --resources-server units
python rows.py
# the same rows stand for the validation file, which has to be given; the model is the one of the tutorial
uv run python examples/nemo_gym/run_grpo_nemo_gym.py ++data.train.data_path=rows.jsonl ++data.validation.data_path=rows.jsonl \
    "++env.nemo_gym.config_paths=[responses_api_models/vllm_model/configs/vllm_model_for_training.yaml,resources_servers/units/configs/units.yaml]" \
    "++policy.generation.vllm_cfg.tool_parser_plugin=$(find $PWD/.cache -name nemotron_toolcall_parser_no_streaming.py)"
