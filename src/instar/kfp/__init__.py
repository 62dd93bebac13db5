"""The API of Kubeflow Pipelines, as far as the chain of runs needs it: `api` says what, `client` and `http` how."""
