"""The choices above the pages, and the matchers that follow from them."""

from monitoring.expressions import Scope
from monitoring.grafana import Variable

NAMESPACE = Variable("namespace", "wenxin_slots")
DEPLOYMENT = Variable("deployment", 'wenxin_slots{namespace=~"$namespace"}')
POD = Variable("pod", 'wenxin_slots{namespace=~"$namespace", deployment=~"$deployment"}')
ONE_NAMESPACE = Variable("namespace", "wenxin_slots", many=False)
ONE_DEPLOYMENT = Variable("deployment", 'wenxin_slots{namespace=~"$namespace"}', many=False)

OF_NAMESPACES = Scope('namespace=~"$namespace"')
OF_DEPLOYMENTS = Scope('namespace=~"$namespace", deployment=~"$deployment"')
OF_PROCESSES = Scope('job="wenxin-runtime", namespace=~"$namespace", deployment=~"$deployment", pod=~"$pod"')
"""Of what every process in the cluster tells: only model pods'."""
OF_PODS = Scope('namespace=~"$namespace", deployment=~"$deployment", pod=~"$pod"')
"""Of the pods' own series. What the operator tells of a deployment carries the operator's pod."""
