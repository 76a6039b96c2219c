"""Raw API objects -> frozen snapshots. Pure: reads only what the store already holds."""

from wenxin_operator.names import Key, Raw
from wenxin_operator.reconcile import Reader


def concerned(kind: str, thing: Raw, reader: Reader) -> frozenset[Key]:
    """Which resources need a pass when `thing` appeared, changed or went away.

    A child concerns its owner, a WenxinModel also the deployments that serve it, a claim the models that lie on it.
    """
    raise NotImplementedError
