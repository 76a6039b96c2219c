"""The operator: one WenxinDeployment becomes pods that serve ERNIE 4.5.

The flow, and the module that owns each step:

    handlers     watch events fill the `store` and put keys on the `work_queue`     (the only room with kopf)
    observe      the store's raw objects -> a frozen snapshot                      (pure)
    plan/        spec + snapshot -> the objects that should exist                  (pure)
    reconcile    one pass: observe, plan, apply what differs through `cluster`, write what `status` makes of it
    status       snapshot + plan + errors -> conditions, counts, events            (pure)

`api` is the custom resources as pydantic models, the one source of crds/. `names` is the one home of every key.
"""
