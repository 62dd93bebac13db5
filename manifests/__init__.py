"""Kubernetes objects as kustomize folders, and the checks that hold them: `python -m manifests.check`."""
