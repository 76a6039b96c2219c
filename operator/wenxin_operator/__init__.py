"""The operator: one WenxinDeployment becomes pods that serve ERNIE 4.5.

The flow, and the module that owns each step:

    handlers     kopf's watches fill the `store` through the `feed`, which puts keys on the `work_queue`
    observe      the store's raw objects -> a frozen snapshot (`pods` reads a pod's status)              pure
    plan/        spec + snapshot -> the objects that should exist                                        pure
    changes      those objects against the live ones: what to apply (`drift`) and what to prune          pure
    status       snapshot + plan + what failed -> `conditions`, counts (`progress`), events              pure

`reconcile` is one pass through the last four, written through `cluster`, the only module that talks to the API.
`api` is the custom resources as pydantic models, the one source of crds/. `names` is the one home of every key.
`supervise` starts every part; `lease` lets one copy work at a time; `resync` lists every kind anew now and then.
"""
