"""Spec and snapshot in, the objects that should exist out. Pure: no clock, no client, no chance.

acceptance   which spec and which weights the pods are to follow: the newest, or the last good ones
deployment   the whole plan of a WenxinDeployment, from the four below
flags        the spec as the runtime's command line
workload     the Deployment and its pod template
service      Service and PodDisruptionBudget
network      who may talk to the pods
model_job    the whole plan of a WenxinModel: inspect Jobs
manifest     what all children have in common; restricted containers
"""
