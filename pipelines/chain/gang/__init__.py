"""Jobs that are too large for tasks of a pipeline: `task` is what a pipeline starts, `manifests` what it asks the cluster for."""
