"""custom.metrics.k8s.io, served by the operator itself: how busy pods are, for HorizontalPodAutoscalers.

    server        HTTPS of every copy, with a certificate that is exchanged under way
    queries       paths and selectors -> what is asked                                     pure
    answers       discovery documents, MetricValueLists, errors as metav1.Status           pure
    callers       who asks (the API server on somebody's behalf, or a token) and may they
    certificates  the authority and the certificate, and when they are renewed             pure but for chance
    upkeep        keeps them in a Secret that all copies share, and the API server told

The numbers come from `load_poller`. Delegated authentication and authorization are as for any aggregated API:
https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""
