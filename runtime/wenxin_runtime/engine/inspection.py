"""Where every sequence stands, for somebody who asks why it waits: counts, no text and no tokens."""

from wenxin_runtime.engine.request import Request
from wenxin_runtime.engine.scheduler import Scheduler
from wenxin_runtime.ipc import Inspected, SequenceState


def inspected(scheduler: Scheduler, *, compiling: int) -> Inspected:
    """Describe what the scheduler holds. `compiling` prompts wait for their grammar and are not there yet."""
    running = [_state(request, running=True) for request in scheduler.running]
    waiting = [_state(request, running=False) for request in scheduler.waiting]
    return Inspected(
        kv_blocks_owned=scheduler.pools.owned,
        kv_blocks_free=scheduler.pools.free,
        compiling=compiling,
        sequences=(*running, *waiting),
    )


def _state(request: Request, *, running: bool) -> SequenceState:
    return SequenceState(
        id=request.request_id,
        running=running,
        group=request.group if running else None,
        prompt_tokens=len(request.prompt.ids),
        generated_tokens=len(request.token_ids) - len(request.prompt.ids),
        computed=request.computed,
        in_flight=request.in_flight,
        max_len=request.max_len,
        blocks=len(request.table.blocks),
    )
