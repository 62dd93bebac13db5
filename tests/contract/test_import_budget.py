"""Start-up loads nothing heavy: torch, kfp and the like cost seconds each; the functions that need them import them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "kfp",
    "mlflow",
    "kubernetes",
    "great_expectations",
    "pandas",
    "reasoning_gym",
    "peft",
    "safetensors",
    "tokenizers",
    "sqlalchemy",
    "jinja2",
    "playwright",
    "scipy",
)
STATEMENTS = {
    "package": "import instar",
    "help": "import sys; sys.argv = ['instar', '--help']; from instar.cli.app import app; app(standalone_mode=False)",
    "catalog": "import instar.components.catalog",
    "recipes": "import instar.pipelines.recipes",
    "every recipe at every scale": (
        "from instar.pipelines.recipes import METHODS, build\n"
        "for name, method in METHODS.items():\n"
        "    for scale in method.scales: build(name, scale)"
    ),
    "contracts": (
        "from instar.pipelines.catalog import STAGES\n"
        "from instar import contract, schema\nfrom instar.pipelines import stage_command\n"
        "for stage in STAGES.values(): contract.ports(stage.ins), contract.ports(stage.outs), stage_command.parser(stage)"
    ),
    "commands": "import instar.cli.commands, instar.cli.export",
    "public names": "import instar; [getattr(instar, name) for name in dir(instar)]",
    "explain": (
        "from instar.cli.explain import explain\nfrom instar.pipelines.recipes import build\n"
        "for name in ('sec', 'decision_mamba'): explain(build(name, 'tiny'))"
    ),
    "stores": "import instar.store, instar.store_s3, instar.cas, instar.ledger",
}


def loaded(statement: str) -> list[str]:
    """Return the heavy modules that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nsys.stderr.write(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


@pytest.mark.parametrize("name", STATEMENTS)
def test_loads_nothing_heavy(name: str) -> None:
    assert loaded(STATEMENTS[name]) == []


def test_the_probe_sees_a_heavy_import() -> None:
    assert loaded("import sys; sys.modules['pandas'] = sys") == ["pandas"]


def test_help_loads_no_command_and_no_library_but_its_own() -> None:
    """0.1 s of CPU time (`benchmarks/cli_start.py`), of which `rich` would make 0.2, numpy, pyarrow or minio more."""
    code = STATEMENTS["help"] + "\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stderr.split()
    own = {name for name in names if name.partition(".")[0] == "instar"}
    assert own == {
        f"instar{name}" for name in ("", ".border", ".cli", ".cli.app", ".cli.cluster_app", ".errors", ".terminal")
    }
    packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert packages & {"rich", "pygments", "numpy", "pyarrow", "minio", "yaml", "requests"} == set()
    assert "typer" in packages and len(packages) < 10, packages
