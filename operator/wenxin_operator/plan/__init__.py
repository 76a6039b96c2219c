"""Spec and snapshot in, the objects that should exist out. Pure: no clock, no client, no chance.

acceptance         which spec and which weights the pods are to follow: the newest, or the last good ones
deployment         the whole plan of a WenxinDeployment, from those below
flags              the spec as the runtime's command line
replicas           which kind of object makes the pods, and what stays of another kind
workload           the pod template, and the Deployment: a replica is one pod
leader_worker_set  a replica is a group of pods, where the cluster has LeaderWorkerSets
stateful_set       the same where it has none: one StatefulSet for each group
groups             which of these there should be: rollout and scale
service            Service and PodDisruptionBudget
autoscaler         what sets the count of replicas
network            who may talk to the pods
model_job          the whole plan of a WenxinModel: attempts, one after the other until one succeeds
inspection         the Job that reads a checkpoint on a claim
download           what fetches one: the claim, the Job, and all that it is told
manifest           what all children have in common; restricted containers
"""
