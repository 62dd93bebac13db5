"""Compiled pipelines run in containers on one machine: `instar run --mode containers`.

evolution      compiles the segments with `instar.pipelines.kubeflow`, and runs one after another until the head says `done`
   |
   v  begin.yaml, iterate.yaml, finish.yaml
ir, ir_task, ir_machine     read a package into a `program`; a construct that they do not know is an error
   |
   v
run            runs the tasks in order; `values` and `launcher` prepare the inputs of each container and read its outputs back
   |
   v
engine, ends   run one Docker container, as restricted as a pod, and turn its exit code into a named error
"""
