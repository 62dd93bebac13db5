"""The part of the Kubeflow Pipelines API that the chain of runs needs.

`api` declares the interface, `client` implements it, and `http` sends the requests.
`schedule` keeps a recurring run, and `workflow` reads why a run has ended.
"""
