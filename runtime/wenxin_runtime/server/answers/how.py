"""Where an answer comes from: the header X-Wenxin-Cache, and the label of its metric."""

import enum


class How(enum.StrEnum):
    """Where an answer comes from, where there is a cache."""

    HIT = "hit"
    """Redis had it."""
    SHARED = "shared"
    """An equal request is being answered, and this one reads along."""
    MISS = "miss"
    """It is generated, and kept."""
    BYPASS = "bypass"
    """It is generated for this request alone: the client, or the rule of what may be repeated, wants it so."""
