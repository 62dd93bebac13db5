"""Compiled pipelines run in containers on one machine: `instar run --mode containers`.

evolution      compiles the segments with `instar.pipelines.kubeflow`, and runs one after another until the head says done
   |
   v  begin.yaml, iterate.yaml, finish.yaml
ir, ir_task, ir_machine     read a package strictly into a `program`: what the reader does not know is an error
   |
   v
run            the tasks in order; `values` and `launcher` say what each container is given, and read back what it made
   |
   v
engine, ends   one container of Docker, as restricted as a pod, and the named error of its exit code
"""
