# the first command writes the package: pyproject.toml, __init__.py and a taskset.py, which the one beside this file replaces
uv run vf-init units
uv pip install -e environments/units
uv run rl @ rl.toml
